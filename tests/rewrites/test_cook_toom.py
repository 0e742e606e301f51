"""The Winograd identities in exact arithmetic, and the whole layer against PyTorch in float64."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from converter.rewrites import cook_toom

TILES = range(2, 13)
WHOLE_TILES = [(1, 2, 2), (3, 2, 6), (1, 3, 3), (2, 4, 8), (1, 5, 5), (1, 7, 7), (2, 8, 16)]
CUT_TILES = [(2, 4, 5), (2, 6, 11), (2, 8, 13), (1, 8, 1)]
OTHER_FILTERS = [(2, 2), (4, 2), (3, 4), (4, 5), (2, 7)]


def matvec(rows, vector):
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in rows]


@pytest.mark.parametrize(("m", "r"), [*((m, 3) for m in TILES), *OTHER_FILTERS])
def test_exact_identity_in_fractions(m, r):
    transform = cook_toom.exact_matrices(m, r)
    rng = np.random.default_rng(m)
    for _ in range(5):
        d = [Fraction(int(v)) for v in rng.integers(-99, 100, m + r - 1)]
        w = [Fraction(int(v)) for v in rng.integers(-99, 100, r)]
        product = [
            a * b for a, b in zip(matvec(transform.g, w), matvec(transform.bt, d), strict=True)
        ]
        direct = [sum(w[k] * d[t + k] for k in range(r)) for t in range(m)]
        assert matvec(transform.at, product) == direct


@pytest.mark.parametrize("m", TILES)
def test_float64_is_the_exact_transform_rounded_once(m):
    exact, rounded = cook_toom.exact_matrices(m), cook_toom.matrices(m)
    for name in ("bt", "g", "at"):
        for exact_row, row in zip(getattr(exact, name), getattr(rounded, name), strict=True):
            assert [float(value) for value in exact_row] == list(row)


@pytest.mark.parametrize("m", range(2, 9))
def test_matrices_applied_to_data_are_exact_in_float32(m):
    transform = cook_toom.matrices(m)
    for matrix in (transform.bt, transform.at):
        assert np.array_equal(matrix.astype(np.float32).astype(np.float64), matrix)


@pytest.mark.parametrize("m", TILES)
def test_rows_have_about_unit_norm(m):
    transform = cook_toom.matrices(m)
    for matrix in (transform.bt, transform.g):
        norms = np.linalg.norm(matrix, axis=1)
        # The nearest power of two in ratio leaves at most a factor of sqrt(2) either way.
        assert norms.max() <= 2**0.5 * (1 + 1e-12)
        assert norms.min() >= 0.5**0.5 * (1 - 1e-12)


@pytest.mark.parametrize("m", TILES)
def test_one_product_carries_the_bias(m):
    transform = cook_toom.matrices(m)
    (carrier,) = np.flatnonzero(transform.bias)
    assert np.log2(transform.bias[carrier]).is_integer()
    for dtype in (np.float64, np.float32, np.float16):
        bias = np.array([0.1, -3.7, 0.02], dtype=dtype)
        spread = cook_toom.transform_bias(bias, m).reshape(-1, len(bias))
        assert spread.dtype == dtype
        assert np.array_equal(transform.at.astype(dtype) @ spread, np.tile(bias, (m, 1)))


@pytest.mark.parametrize("m", TILES)
def test_products_is_the_number_of_rows(m):
    transform = cook_toom.matrices(m)
    assert transform.bt.shape == (cook_toom.products(m), m + 2)
    assert transform.g.shape == (cook_toom.products(m), 3)
    assert transform.at.shape == (m, cook_toom.products(m))


def test_shared_matrices_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        cook_toom.matrices(4).bt[0, 0] = 1.0


def winograd_conv3d(x, w, bias, tiles, m, frames, groups):
    """Steps 1 to 3 of the grouped form, on one clip x (C, T_in, H, W), in x's precision."""
    dtype = x.dtype
    channels, t_in, height, width = x.shape
    j = cook_toom.products(m)
    data = cook_toom.data_matrix(tiles, m, frames).astype(dtype)
    stacked = data @ x.transpose(1, 0, 2, 3).reshape(t_in, -1)
    y = torch.nn.functional.conv2d(
        torch.from_numpy(stacked.reshape(tiles, j * channels, height, width)),
        torch.from_numpy(cook_toom.transform_weights(w, m)),
        torch.from_numpy(cook_toom.transform_bias(bias, m)),
        stride=(2, 1),
        padding=1,
        groups=j * groups,
    ).numpy()
    out = cook_toom.output_matrix(tiles, m, frames).astype(dtype) @ y.reshape(tiles * j, -1)
    return out.reshape(frames, len(w), *y.shape[2:]).transpose(1, 0, 2, 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("tiles", "m", "frames"),
    WHOLE_TILES + CUT_TILES,
)
def test_layer_equals_direct_convolution(tiles, m, frames, groups, dtype):
    rng = np.random.default_rng(tiles * 100 + m)
    x = rng.standard_normal((4, frames + 2, 6, 5)).astype(dtype)
    w = (rng.standard_normal((6, 4 // groups, 3, 3, 3)) / 10).astype(dtype)
    bias = rng.standard_normal(6).astype(dtype)
    direct = torch.nn.functional.conv3d(
        *(torch.from_numpy(a.astype(np.float64)) for a in (x, w, bias)),
        stride=(1, 2, 1),
        padding=(0, 1, 1),
        groups=groups,
    ).numpy()
    out = winograd_conv3d(x, w, bias, tiles, m, frames, groups)
    assert out.dtype == dtype
    # Values of about 1: float64 keeps 1e-12; in float32 F(8, 3) loses the most, 3e-5 at worst.
    assert np.abs(out - direct).max() <= (1e-12 if dtype == np.float64 else 3e-5)


def test_weights_are_transformed_in_float64_whatever_their_type():
    w = np.random.default_rng(0).standard_normal((2, 3, 3, 1, 1)).astype(np.float16)
    u = cook_toom.transform_weights(w, 4)
    in_float64 = cook_toom.transform_weights(w.astype(np.float64), 4)
    assert u.dtype == np.float16
    assert np.array_equal(u, in_float64.astype(np.float16))
    assert cook_toom.transform_weights(w, 4, np.float32).dtype == np.float32


def test_points_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="saves nothing"):
        cook_toom.matrices(1)
    with pytest.raises(ValueError, match="only 17 are known"):
        cook_toom.matrices(17)
    with pytest.raises(ValueError, match="5 distinct points"):
        cook_toom.exact_matrices(4, 3, [Fraction(v) for v in (0, 1, -1, 2, 2)])
    with pytest.raises(ValueError, match="include 1"):
        cook_toom.exact_matrices(2, 3, [Fraction(v) for v in (0, 2, -1)])


def test_frames_that_do_not_fit_the_tiles_are_refused():
    for frames in (4, 9):
        with pytest.raises(ValueError, match="2 tiles of 4 frames"):
            cook_toom.data_matrix(2, 4, frames)
        with pytest.raises(ValueError, match="2 tiles of 4 frames"):
            cook_toom.output_matrix(2, 4, frames)
