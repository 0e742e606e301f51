"""How far one array is from another: pure NumPy, in slices, accumulated in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

from converter.compare.tolerance import Tolerance, round_down, round_up

Array = np.ndarray[Any, np.dtype[Any]]

# Elements a slice: half a megabyte in float64, which stays in a core's cache.
SLICE = 1 << 16


@dataclass(frozen=True)
class OutputDifference:
    """How far a candidate's output is from the reference's.

    Errors are taken over the elements that are finite on both sides, and are not numbers (nan)
    when there is none or the shapes differ; `problem` then says so. An empty output has no error.

    - rel_l2: the norm of the difference over the reference's norm.
    - psnr_db: 20 log10(data_range / rmse), inf if no element differs.
    - data_range: the reference's max - min. A constant reference (a range below rounding) has
      none, so its largest magnitude stands in for it, or 1 if that is zero too.
    - unequal: elements whose values differ.
    - nonfinite_unequal: those of them that are NaN or infinite on either side; NaN equals NaN.
    - worst_index: where the first of these is, else the largest error, else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    max_abs: float
    mean_abs: float
    rmse: float
    rel_l2: float
    psnr_db: float
    data_range: float
    reference_min: float
    reference_max: float
    worst_index: tuple[int, ...] | None
    unequal: int
    reference_nan: int
    reference_inf: int
    candidate_nan: int
    candidate_inf: int
    nonfinite_unequal: int
    problem: str = ""

    @property
    def exact(self) -> bool:
        """Whether the values are of a type that has to be equal: integers and booleans."""
        return _is_exact(self.dtype)

    @property
    def max_abs_of_range(self) -> float:
        """The largest absolute error as a fraction of the data range."""
        return self.max_abs / self.data_range

    def figures(self) -> str:
        """The main figures in a few words, with what is not finite on both sides."""
        nonfinite = self.reference_nan + self.reference_inf
        return (
            f"PSNR {self.psnr_db:.2f} dB over a range of {self.data_range:.4g}, "
            f"max abs {self.max_abs:.3g}, relative L2 {self.rel_l2:.3g}"
            + (f", {nonfinite} elements NaN or infinite on both sides" if nonfinite else "")
        )

    def why_fails(self, tolerance: Tolerance) -> str:
        """Empty when the difference is within tolerance, else what is not, in a few words."""
        if self.problem:
            return self.problem
        if self.nonfinite_unequal:
            return (
                f"{self.nonfinite_unequal} elements are NaN or infinite on one side only, "
                f"the first at {self.worst_index}"
            )
        if self.exact:
            return f"{self.unequal} elements differ" if self.unequal else ""
        failed = []
        if not self.psnr_db >= tolerance.min_psnr_db:
            failed.append(f"PSNR {self.psnr_db:.2f} dB < {tolerance.min_psnr_db:g} dB")
        if not self.max_abs_of_range <= tolerance.max_abs_of_range:
            failed.append(
                f"max abs {self.max_abs_of_range:.3g} of range > {tolerance.max_abs_of_range:g}"
            )
        return " and ".join(failed)

    def needed(self) -> Tolerance | None:
        """The smallest tolerance that passes, to two digits; None where none does."""
        if self.problem or self.nonfinite_unequal or (self.exact and self.unequal):
            return None
        return Tolerance(round_down(self.psnr_db), round_up(self.max_abs_of_range))

    def to_json(self) -> dict[str, Any]:
        """Every field by name; a float that is not finite becomes None, as JSON has none."""
        return {key: finite_or_none(value) for key, value in asdict(self).items()}


def difference(name: str, reference: Array, candidate: Array) -> OutputDifference:
    """Compare two arrays element by element.

    Takes one pass in slices of `SLICE` elements; needs some 3 MB beside the two arrays, which
    are copied only if they are not contiguous.
    """
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return _incomparable(name, reference, candidate)
    sums = _Sums()
    for start, left, right in _slices(reference, candidate):
        sums.add(start, left, right)
    return sums.result(name, reference)


def finite_or_none(value: Any) -> Any:
    """The value, or None if it is a float that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Sums:
    """What one pass over both arrays accumulates."""

    def __init__(self) -> None:
        self.finite = 0
        self.abs_sum = 0.0
        self.square_sum = 0.0
        self.reference_square_sum = 0.0
        self.max_abs = 0.0
        self.worst: int | None = None
        self.first_nonfinite_unequal: int | None = None
        self.reference_min = math.inf
        self.reference_max = -math.inf
        self.unequal = self.nonfinite_unequal = 0
        self.reference_nan = self.reference_inf = self.candidate_nan = self.candidate_inf = 0

    def add(self, start: int, reference: Array, candidate: Array) -> None:
        """Take in a slice that begins at flat index `start`."""
        left, right = reference.astype(np.float64), candidate.astype(np.float64)
        left_finite, right_finite = np.isfinite(left), np.isfinite(right)
        if left_finite.any():
            self.reference_min = min(self.reference_min, float(left[left_finite].min()))
            self.reference_max = max(self.reference_max, float(left[left_finite].max()))
        # Integers above 2^53 may differ and yet be one float64, so they are compared as they are.
        same = (reference == candidate) | (np.isnan(left) & np.isnan(right))
        both = left_finite & right_finite
        self.unequal += int(np.count_nonzero(~same))
        if not both.all():
            self._count_nonfinite(start, left, right, ~same & ~both)
            left, right = np.where(both, left, 0.0), np.where(both, right, 0.0)
        finite = int(np.count_nonzero(both))
        if not finite:
            return
        self.finite += finite
        self.reference_square_sum += float(np.dot(left, left))
        error = np.abs(left - right)
        self.abs_sum += float(error.sum())
        self.square_sum += float(np.dot(error, error))
        worst = int(error.argmax())
        if error[worst] > self.max_abs:
            self.max_abs, self.worst = float(error[worst]), start + worst

    def _count_nonfinite(self, start: int, left: Array, right: Array, unequal: Array) -> None:
        self.reference_nan += int(np.count_nonzero(np.isnan(left)))
        self.reference_inf += int(np.count_nonzero(np.isinf(left)))
        self.candidate_nan += int(np.count_nonzero(np.isnan(right)))
        self.candidate_inf += int(np.count_nonzero(np.isinf(right)))
        self.nonfinite_unequal += int(np.count_nonzero(unequal))
        if self.first_nonfinite_unequal is None and unequal.any():
            self.first_nonfinite_unequal = start + int(unequal.argmax())

    def result(self, name: str, reference: Array) -> OutputDifference:
        """The figures of everything taken in."""
        empty = reference.size == 0
        problem = "" if self.finite or empty else "no element is finite on both sides"
        unknown = math.nan if problem else 0.0
        rmse = math.sqrt(self.square_sum / self.finite) if self.finite else unknown
        data_range = self._data_range(reference.dtype)
        worst = self.worst if self.first_nonfinite_unequal is None else self.first_nonfinite_unequal
        return OutputDifference(
            name=name,
            shape=reference.shape,
            dtype=str(reference.dtype),
            max_abs=self.max_abs if self.finite else unknown,
            mean_abs=self.abs_sum / self.finite if self.finite else unknown,
            rmse=rmse,
            rel_l2=self._rel_l2() if self.finite else unknown,
            psnr_db=psnr(rmse, data_range),
            data_range=data_range,
            reference_min=self.reference_min,
            reference_max=self.reference_max,
            worst_index=None if worst is None else _unravel(worst, reference.shape),
            unequal=self.unequal,
            reference_nan=self.reference_nan,
            reference_inf=self.reference_inf,
            candidate_nan=self.candidate_nan,
            candidate_inf=self.candidate_inf,
            nonfinite_unequal=self.nonfinite_unequal,
            problem=problem,
        )

    def _data_range(self, dtype: np.dtype[Any]) -> float:
        if self.reference_max < self.reference_min:
            return 1.0
        spread = self.reference_max - self.reference_min
        magnitude = max(abs(self.reference_min), abs(self.reference_max))
        if spread > 4 * _epsilon(dtype) * magnitude:
            return spread
        return magnitude or 1.0

    def _rel_l2(self) -> float:
        if self.square_sum == 0:
            return 0.0
        if self.reference_square_sum == 0:
            return math.inf
        return math.sqrt(self.square_sum / self.reference_square_sum)


def psnr(rmse: float, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB; inf for no error, nan for an unknown one."""
    if rmse == 0:
        return math.inf
    return 20 * (math.log10(data_range) - math.log10(rmse)) if math.isfinite(rmse) else math.nan


def _slices(reference: Array, candidate: Array) -> Iterator[tuple[int, Array, Array]]:
    left, right = reference.reshape(-1), candidate.reshape(-1)
    for start in range(0, left.size, SLICE):
        yield start, left[start : start + SLICE], right[start : start + SLICE]


def _epsilon(dtype: np.dtype[Any]) -> float:
    """Spacing of the float type at 1; none for exact types."""
    return 0.0 if _is_exact(str(dtype)) else float(ml_dtypes.finfo(dtype).eps)


def _is_exact(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "bool"))


def _unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.unravel_index(index, shape))


def _incomparable(name: str, reference: Array, candidate: Array) -> OutputDifference:
    nan = math.nan
    return OutputDifference(
        name=name,
        shape=reference.shape,
        dtype=str(reference.dtype),
        max_abs=nan,
        mean_abs=nan,
        rmse=nan,
        rel_l2=nan,
        psnr_db=nan,
        data_range=nan,
        reference_min=nan,
        reference_max=nan,
        worst_index=None,
        unequal=max(reference.size, candidate.size),
        reference_nan=0,
        reference_inf=0,
        candidate_nan=0,
        candidate_inf=0,
        nonfinite_unequal=0,
        problem=(
            f"{candidate.dtype} {list(candidate.shape)} instead of "
            f"{reference.dtype} {list(reference.shape)}"
        ),
    )
