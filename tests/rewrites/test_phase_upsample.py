"""Phase kernels against PyTorch's own upsampling and convolution in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from converter.rewrites.phase_upsample import PHASES, phase_matrices, phase_weights


def by_phases(x, w, bias, groups):
    """What the graph will do: pad and convolve by phase, concatenate, DepthToSpace mode DCR."""
    phases = []
    for phase, kernel in zip(PHASES, phase_weights(w), strict=True):
        top, left, bottom, right = phase.pads
        padded = functional.pad(torch.from_numpy(x), (left, right, top, bottom))
        kernel, bias_ = torch.from_numpy(kernel), torch.from_numpy(bias)
        phases.append(functional.conv2d(padded, kernel, bias_, groups=groups).numpy())
    stacked = np.concatenate(phases, axis=1)
    n, channels, height, width = stacked.shape
    blocks = stacked.reshape(n, 2, 2, channels // 4, height, width)
    return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(n, channels // 4, 2 * height, 2 * width)


def upsampled_then_convolved(x, w, bias, groups):
    x, w, bias = (torch.from_numpy(a.astype(np.float64)) for a in (x, w, bias))
    large = functional.interpolate(x, scale_factor=2, mode="nearest")
    return functional.conv2d(large, w, bias, padding=1, groups=groups).numpy()


# float64: a few sums of values of about 1. float32: 54 sums of up to 15, each rounded by at most
# half of 2^-20; 1e-5 is a third of that, as roundings cancel.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
def test_phases_equal_upsampling_then_convolution(size, groups, dtype, tolerance):
    rng = np.random.default_rng(size[0])
    x = rng.standard_normal((2, 6, *size)).astype(dtype)
    w = rng.standard_normal((12, 6 // groups, 3, 3)).astype(dtype)
    bias = rng.standard_normal(12).astype(dtype)
    out = by_phases(x, w, bias, groups)
    assert out.dtype == dtype
    assert np.abs(out - upsampled_then_convolved(x, w, bias, groups)).max() <= tolerance


def test_taps_worked_by_hand():
    w = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)  # 1 2 3 / 4 5 6 / 7 8 9
    top_left, top_right, bottom_left, bottom_right = phase_weights(w)[:, 0, 0]
    assert top_left.tolist() == [[1, 2 + 3], [4 + 7, 5 + 6 + 8 + 9]]
    assert top_right.tolist() == [[1 + 2, 3], [4 + 5 + 7 + 8, 6 + 9]]
    assert bottom_left.tolist() == [[1 + 4, 2 + 3 + 5 + 6], [7, 8 + 9]]
    assert bottom_right.tolist() == [[1 + 2 + 4 + 5, 3 + 6], [7 + 8, 9]]
    assert [phase.pads for phase in PHASES] == [
        (1, 1, 0, 0),
        (1, 0, 0, 1),
        (0, 1, 1, 0),
        (0, 0, 1, 1),
    ]


def test_taps_are_added_in_float64():
    w = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float16)
    in_float64 = phase_weights(w.astype(np.float64))
    assert np.array_equal(phase_weights(w), in_float64.astype(np.float16))
    assert phase_weights(w, np.float32).dtype == np.float32


def test_every_temporal_tap_is_merged_alike():
    w = np.random.default_rng(0).standard_normal((2, 4, 3, 3, 3))
    kernels = phase_weights(w)
    assert kernels.shape == (4, 2, 4, 3, 2, 2)
    for tap in range(3):
        assert np.array_equal(kernels[:, :, :, tap], phase_weights(w[:, :, tap]))


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 3, 5), (3,)])
def test_other_kernels_are_refused(shape):
    with pytest.raises(ValueError, match="Phase kernels"):
        phase_weights(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices_make_the_same_kernels(dtype):
    w = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(dtype)
    kernels = w.reshape(-1, 9) @ phase_matrices(dtype)
    assert kernels.dtype == dtype
    np.testing.assert_allclose(kernels.reshape(4, 2, 4, 2, 2), phase_weights(w), rtol=0, atol=1e-6)
