import numpy as np
import pytest

from converter.compare.reference_conv import conv, multiplications

torch = pytest.importorskip("torch")


def oracle(x, w, b, strides, dilations, pads, group):
    """PyTorch in float64 on an input padded by hand; `pads` is (before, after) per axis."""
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    bias = None if b is None else torch.from_numpy(b)
    function = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[x.ndim]
    y = function(torch.from_numpy(padded), torch.from_numpy(w), bias, strides, 0, dilations, group)
    return y.numpy()


def same_pads(size, kernel, dilation, stride, lower):
    span = dilation * (kernel - 1) + 1
    total = max(0, (int(np.ceil(size / stride)) - 1) * stride + span - size)
    half = total // 2
    return (total - half, half) if lower else (half, total - half)


@pytest.mark.parametrize("auto_pad", [None, "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_agrees_with_pytorch_in_float64(rank, auto_pad):
    random = np.random.default_rng(rank)
    for trial in range(25):
        group = int(random.integers(1, 4))
        kernel, dilations, strides = (random.integers(1, 4, rank) for _ in range(3))
        spatial = [int(random.integers((k - 1) * d + 1, 12)) for k, d in zip(kernel, dilations)]  # noqa: B905
        x = random.standard_normal((2, 2 * group, *spatial))
        w = random.standard_normal((3 * group, 2, *kernel))
        b = random.standard_normal(3 * group) if trial % 2 else None
        pads = [(0, 0)] * rank
        attributes = {"group": group, "strides": strides.tolist(), "dilations": dilations.tolist()}
        if auto_pad is None:
            pads = [tuple(random.integers(0, 4, 2).tolist()) for _ in range(rank)]
            attributes["pads"] = [p[0] for p in pads] + [p[1] for p in pads]
        else:
            attributes["auto_pad"] = auto_pad
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            axes = zip(spatial, kernel, dilations, strides, strict=True)
            pads = [same_pads(*axis, lower=auto_pad == "SAME_LOWER") for axis in axes]
        expected = oracle(x, w, b, strides.tolist(), dilations.tolist(), pads, group)
        found = conv(x, w, b, attributes)
        assert found.shape == expected.shape
        # Sums of at most 54 float64 products of size about 1.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        work = expected.size * w[0].size
        assert multiplications(x.shape, w.shape, attributes) == work


def test_rounds_once_to_the_type_of_its_input():
    x = np.full((1, 1000, 1), 0.1, np.float16)
    w = np.ones((1, 1000, 1), np.float16)
    found = conv(x, w, None, {})
    assert found.dtype == np.float16
    assert found.item() == np.float16(1000 * float(np.float16(0.1)))


def test_defaults_are_the_operators():
    x, w = np.ones((1, 1, 4, 4, 4)), np.ones((1, 1, 3, 3, 3))
    empty = dict.fromkeys(("group", "strides", "dilations", "pads", "auto_pad"))
    assert conv(x, w, None, empty).tolist() == np.full((1, 1, 2, 2, 2), 27.0).tolist()
