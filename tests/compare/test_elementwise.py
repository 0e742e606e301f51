import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from converter.compare import metrics
from converter.compare.elementwise import QUANTILES, error_quantiles, least_atol, max_ulp


@pytest.fixture(params=[7, 1 << 16])
def slice_size(request, monkeypatch):
    monkeypatch.setattr(metrics, "SLICE", request.param)


def pair(dtype=np.float32, size=3001, noise=1e-3):
    random = np.random.default_rng(4)
    reference = random.standard_normal(size)
    # Some errors are large: even beside rtol 1 an element near zero needs an atol.
    candidate = reference + noise * random.standard_normal(size) ** 3
    return reference.astype(dtype), candidate.astype(dtype)


def by_sorting(errors, quantile):
    """The quantile as the textbook interpolates it between two ranks."""
    ordered = sorted(errors)
    rank = quantile * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


@pytest.mark.usefixtures("slice_size")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_quantiles_equal_sorting(dtype):
    reference, candidate = pair(dtype)
    errors = [abs(float(b) - float(a)) for a, b in zip(reference, candidate, strict=True)]
    expected = [by_sorting(errors, quantile) for quantile in QUANTILES]
    # Errors are kept in fp32 (2^-24 relative), those of double in double.
    rel = 1e-12 if dtype == np.float64 else 3e-7
    assert error_quantiles(reference, candidate) == pytest.approx(expected, rel=rel, abs=0)


def test_quantiles_asked_for():
    reference = np.zeros(11, np.float32)
    candidate = np.arange(11, dtype=np.float32)[::-1]
    assert error_quantiles(reference, candidate, (0.0, 0.25, 1.0)) == (0.0, 2.5, 10.0)
    assert QUANTILES == (0.5, 0.9, 0.99, 0.999)


def test_quantiles_of_integers():
    """A float32 would round it."""
    reference = np.array([0, 0, 0, 2**40 + 1], np.int64)
    assert error_quantiles(reference, reference * 0, (1.0,)) == (float(2**40 + 1),)


def test_quantiles_leave_out_what_is_not_finite():
    reference = np.array([0, np.nan, 0, np.inf, 0], np.float32)
    candidate = np.array([1, np.nan, 3, np.inf, np.inf], np.float32)
    assert error_quantiles(reference, candidate, (0.0, 0.5, 1.0)) == (1.0, 2.0, 3.0)
    assert np.isnan(error_quantiles(reference[1:2], candidate[1:2])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_need_no_array_of_errors(dtype):
    """Not more for 2 million elements than for 260,000."""
    peaks = []
    for size in (1 << 18, 1 << 21):
        reference, candidate = pair(dtype, size)
        tracemalloc.start()
        try:
            error_quantiles(reference, candidate)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 16e6


@pytest.mark.usefixtures("slice_size")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_ulps_count_the_floats_between(dtype):
    """Against the position in a sorted list of all floats of 16 bits."""
    infinity = int(np.array(np.inf, dtype).view(np.uint16))
    positive = np.arange(infinity, dtype=np.uint16).view(dtype).astype(np.float64)
    floats = np.unique(np.concatenate([-positive, positive]))
    random = np.random.default_rng(5)
    for _ in range(50):
        a, b = random.choice(floats, (2, 20))
        b[0], a[1] = -0.0, 0.0
        ranks = np.searchsorted(floats, a) - np.searchsorted(floats, b)
        assert max_ulp(a.astype(dtype), b.astype(dtype)) == np.abs(ranks).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [1.0, -3.5, 1e-30, 0.0, 65504.0])
def test_ulps_are_steps_of_nextafter(dtype, start):
    a = np.array([start], dtype)
    b = a
    for _ in range(5):
        b = np.nextafter(b, dtype(np.inf))
    assert max_ulp(a, b) == max_ulp(b, a) == 5
    assert max_ulp(a, a) == 0


def test_ulps_across_zero_and_at_the_far_ends():
    tiny = np.nextafter(np.float32(0), np.float32(1))
    assert max_ulp(np.array([-tiny]), np.array([tiny])) == 2
    assert max_ulp(np.array([-0.0], np.float32), np.array([0.0], np.float32)) == 0
    for dtype, bits in ((np.float32, 32), (np.float64, 64)):
        limits = np.finfo(dtype)
        apart = max_ulp(np.array([limits.min]), np.array([limits.max]))
        # From the largest finite float down to zero lie all bit patterns below infinity's.
        infinity = int(np.array(np.inf, dtype).view(f"u{bits // 8}"))
        assert apart == 2 * (infinity - 1)


def test_ulps_leave_out_what_is_not_finite_and_exact_types():
    nan, one = np.array([np.nan, 1], np.float32), np.array([1, 1], np.float32)
    assert max_ulp(nan, one) == 0
    assert max_ulp(nan[:1], one[:1]) is None
    assert max_ulp(np.array([1]), np.array([2])) is None


@pytest.mark.usefixtures("slice_size")
@pytest.mark.parametrize("rtol", [0.0, 1e-3, 1.0])
def test_the_least_atol_is_where_allclose_turns(rtol):
    reference, candidate = pair(np.float64)
    least = least_atol(reference, candidate, rtol)
    assert least > 0
    just_enough = least + 1e-12
    assert np.allclose(candidate, reference, rtol=rtol, atol=just_enough)
    assert not np.allclose(candidate, reference, rtol=rtol, atol=0.999 * least)


def test_the_least_atol_leaves_out_what_is_not_finite():
    reference = np.array([1, np.nan, np.inf], np.float32)
    candidate = np.array([1.5, np.nan, np.inf], np.float32)
    assert least_atol(reference, candidate) == 0.5
    assert least_atol(candidate[1:], candidate[1:]) == 0.0
