import json
import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from converter.compare import metrics
from converter.compare.metrics import difference
from converter.compare.tolerance import FP32, Tolerance


def pair(shape=(2, 3, 5, 7), dtype=np.float32, noise=1e-3):
    random = np.random.default_rng(3)
    reference = random.standard_normal(shape)
    candidate = reference + noise * random.standard_normal(shape)
    return reference.astype(dtype), candidate.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("slice_size", [1, 64, 1 << 16])
def test_figures_equal_a_float64_restatement(monkeypatch, dtype, slice_size):
    monkeypatch.setattr(metrics, "SLICE", slice_size)
    reference, candidate = pair(dtype=dtype, noise=0.1)
    left, right = reference.astype(np.float64), candidate.astype(np.float64)
    error = right - left
    found = difference("y", reference, candidate)
    # float64 sums of 210 numbers in another order: some 1e-14 apart.
    close = {"rel": 1e-12, "abs": 0}
    assert found.max_abs == np.max(np.abs(error))
    assert found.mean_abs == pytest.approx(np.mean(np.abs(error)), **close)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(error**2)), **close)
    assert found.rel_l2 == pytest.approx(np.linalg.norm(error) / np.linalg.norm(left), **close)
    norms = np.linalg.norm(left) * np.linalg.norm(right)
    assert found.cosine == pytest.approx(np.sum(left * right) / norms, **close)
    assert found.data_range == left.max() - left.min()
    assert found.max_abs_of_range == found.max_abs / found.data_range
    mse = np.mean(error**2)
    assert found.psnr_db == pytest.approx(10 * np.log10(np.ptp(left) ** 2 / mse), **close)
    assert (found.reference_min, found.reference_max) == (left.min(), left.max())
    assert found.worst_index == np.unravel_index(np.abs(error).argmax(), error.shape)
    assert found.unequal == np.count_nonzero(reference != candidate)
    assert found.shape == (2, 3, 5, 7)
    assert found.dtype == np.dtype(dtype).name


def test_equal_arrays_have_no_error():
    reference, _ = pair()
    found = difference("y", reference, reference.copy())
    assert (found.max_abs, found.mean_abs, found.rmse, found.rel_l2) == (0, 0, 0, 0)
    assert found.psnr_db == math.inf
    assert found.worst_index is None
    assert found.unequal == 0
    assert found.needed() == Tolerance(math.inf, 0.0)
    assert found.why_fails(Tolerance(math.inf, 0.0)) == ""


@pytest.mark.parametrize(("constant", "data_range"), [(3.0, 3.0), (-2.0, 2.0), (0.0, 1.0)], ids=str)
def test_a_constant_reference_takes_its_magnitude_as_range(constant, data_range):
    reference = np.full((4, 4), constant, np.float32)
    candidate = reference + np.float32(0.5)
    found = difference("y", reference, candidate)
    assert found.data_range == data_range
    assert found.psnr_db == pytest.approx(20 * math.log10(data_range / 0.5))


def test_a_range_of_rounding_alone_counts_as_constant():
    reference = np.ones(8, np.float32)
    epsilon = np.finfo(np.float32).eps
    reference[0] = 1 + 4 * epsilon
    assert difference("y", reference, reference).data_range == float(reference[0])
    reference[0] = 1 + 5 * epsilon
    assert difference("y", reference, reference).data_range == 5 * epsilon
    integers = np.array([1000, 1001])
    assert difference("y", integers, integers).data_range == 1


def test_a_zero_reference_has_infinite_relative_error():
    found = difference("y", np.zeros(3, np.float32), np.ones(3, np.float32))
    assert found.rel_l2 == math.inf
    assert found.cosine == 0.0
    assert found.psnr_db == 0.0  # range 1, error 1


@pytest.mark.parametrize(("factor", "cosine"), [(0.0, 0.0), (-2.0, -1.0), (3.0, 1.0)])
def test_cosine_of_parallel_vectors(factor, cosine):
    reference, _ = pair()
    found = difference("y", reference, np.float32(factor) * reference)
    assert found.cosine == pytest.approx(cosine, abs=1e-7)  # 3 * reference is rounded
    assert -1 <= found.cosine <= 1
    zero = reference * 0
    assert difference("y", zero, zero).cosine == 1.0
    assert difference("y", zero, zero).rel_l2 == 0.0


@pytest.mark.parametrize("slice_size", [3, 1 << 16])
def test_nonfinite_at_the_same_places_is_equal_and_counted(monkeypatch, slice_size):
    monkeypatch.setattr(metrics, "SLICE", slice_size)
    reference, candidate = pair((20,), noise=1e-6)
    for array in (reference, candidate):
        array[[2, 3]], array[5], array[11] = np.nan, np.inf, -np.inf
    finite = np.isfinite(reference)
    found = difference("y", reference, candidate)
    assert (found.reference_nan, found.reference_inf) == (2, 2)
    assert (found.candidate_nan, found.candidate_inf) == (2, 2)
    assert found.nonfinite_unequal == 0
    assert found.data_range == pytest.approx(np.ptp(reference[finite]))
    error = candidate[finite].astype(np.float64) - reference[finite]
    assert found.rmse == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found.worst_index == (np.flatnonzero(finite)[np.abs(error).argmax()],)
    assert found.why_fails(FP32) == ""
    assert "4 elements NaN or infinite on both sides" in found.figures()


@pytest.mark.parametrize(
    ("left", "right"),
    [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, np.nan), (0.0, -np.inf)],
)
def test_nonfinite_on_one_side_fails_and_no_tolerance_passes(left, right):
    reference, candidate = pair((3, 4), noise=0)
    reference[1, 2], candidate[1, 2] = left, right
    found = difference("y", reference, candidate)
    assert found.nonfinite_unequal == 1
    assert found.worst_index == (1, 2)
    assert "1 elements are NaN or infinite on one side only" in found.why_fails(FP32)
    assert found.needed() is None


def test_nothing_finite_to_compare_fails():
    nothing = np.full((2, 2), np.nan, np.float32)
    found = difference("y", nothing, nothing)
    assert found.why_fails(FP32) == "no element is finite on both sides"
    assert found.data_range == 1.0
    assert found.needed() is None


def test_an_empty_output_passes():
    found = difference("y", np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    assert found.why_fails(FP32) == ""
    assert found.psnr_db == math.inf


@pytest.mark.parametrize(
    "candidate", [np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float16)], ids=str
)
def test_another_shape_or_type_fails_and_is_named(candidate):
    found = difference("y", np.zeros((2, 3), np.float32), candidate)
    why = found.why_fails(FP32)
    assert why.endswith("instead of float32 [2, 3]")
    assert why.startswith(f"{candidate.dtype} {list(candidate.shape)}")
    assert found.unequal == candidate.size
    counts = ("reference_nan", "reference_inf", "candidate_nan", "candidate_inf")
    assert [getattr(found, name) for name in (*counts, "nonfinite_unequal")] == [0] * 5
    assert found.needed() is None


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_exact_types_must_be_equal(dtype):
    reference = np.array([0, 1, 1, 0], dtype)
    candidate = reference.copy()
    assert difference("y", reference, candidate).why_fails(FP32) == ""
    candidate[3] = 1
    found = difference("y", reference, candidate)
    assert found.why_fails(Tolerance(-math.inf, math.inf)) == "1 elements differ"
    assert found.max_abs == 1
    assert found.needed() is None


def test_integers_that_float64_cannot_tell_apart_differ():
    reference = np.array([2**53], np.int64)
    assert difference("y", reference, reference + 1).unequal == 1


@pytest.mark.parametrize(
    ("tolerance", "why"),
    [
        (Tolerance(20.0, 0.2), ""),
        (Tolerance(20.1, 0.2), "PSNR 20.00 dB < 20.1 dB"),
        (Tolerance(20.0, 0.19), "max abs 0.2 of range > 0.19"),
        (Tolerance(30.0, 0.1), "PSNR 20.00 dB < 30 dB and max abs 0.2 of range > 0.1"),
    ],
)
def test_both_limits_must_hold(tolerance, why):
    reference = np.array([0.0, 1.0, 0.5, 0.5])
    candidate = reference + np.array([0.2, 0.0, 0.0, 0.0])  # RMSE 0.1 of a range of 1
    assert difference("y", reference, candidate).why_fails(tolerance) == why


@pytest.mark.parametrize("noise", [1e-7, 3e-5, 0.2, 40.0])
def test_the_needed_tolerance_passes_and_is_tight(noise):
    found = difference("y", *pair(dtype=np.float64, noise=noise))
    needed = found.needed()
    assert needed is not None
    assert found.why_fails(needed) == ""
    assert found.psnr_db - needed.min_psnr_db <= 0.1
    assert needed.max_abs_of_range <= 1.1 * found.max_abs_of_range


def test_arrays_need_not_be_contiguous():
    reference, candidate = pair((4, 6))
    found = difference("y", reference.T, candidate.T)
    assert found.rmse == pytest.approx(difference("y", reference, candidate).rmse, rel=1e-12)
    assert found.shape == (6, 4)


def test_a_comparison_needs_little_memory():
    reference = np.zeros(1 << 20, np.float32)  # 4 MiB
    candidate = reference + np.float32(1)
    tracemalloc.start()
    try:
        assert difference("y", reference, candidate).mean_abs == 1
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_json_holds_no_nan_or_infinity():
    reference, candidate = pair()
    for other in (reference, candidate, candidate[:1]):
        fields = difference("y", reference, other).to_json()
        assert json.loads(json.dumps(fields, allow_nan=False))["name"] == "y"
