"""How far one array is from another: pure NumPy, in slices, accumulated in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from converter.compare.output_difference import EXACT_TYPES, OutputDifference
from converter.compare.stored_array import PART, AnyArray, parts

Array = np.ndarray[Any, np.dtype[Any]]

SLICE = PART
"""Elements a slice."""


def difference(name: str, reference: AnyArray, candidate: AnyArray) -> OutputDifference:
    """Compare two arrays element by element.

    Takes one pass in slices of `SLICE` elements, some 3 MB. Arrays in memory are copied only if
    they are not contiguous; of stored ones memory holds a slice.
    """
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return _incomparable(name, reference, candidate)
    sums = _Sums()
    for start, left, right in slices(reference, candidate):
        sums.add(start, left, right)
    return sums.result(name, reference)


def slices(reference: AnyArray, candidate: AnyArray) -> Iterator[tuple[int, Array, Array]]:
    """Both arrays flat, `SLICE` elements at a time, with the index of the first."""
    both = zip(parts(reference, SLICE), parts(candidate, SLICE), strict=True)
    for number, (left, right) in enumerate(both):
        yield number * SLICE, left, right


def is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether values of the type have to be equal: integers and booleans."""
    return str(dtype).startswith(EXACT_TYPES)


class _Sums:
    """What one pass over both arrays accumulates."""

    def __init__(self) -> None:
        self.finite = 0
        self.abs_sum = 0.0
        self.square_sum = 0.0
        self.reference_square_sum = self.candidate_square_sum = self.product_sum = 0.0
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
        self.finite += int(np.count_nonzero(both))
        self.reference_square_sum += _dot(left, left)
        self.candidate_square_sum += _dot(right, right)
        self.product_sum += _dot(left, right)
        error = np.abs(left - right)
        self.abs_sum += float(error.sum())
        self.square_sum += _dot(error, error)
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

    def result(self, name: str, reference: AnyArray) -> OutputDifference:
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
            cosine=math.nan if problem else self._cosine(),
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

    def _cosine(self) -> float:
        if self.square_sum == 0:
            return 1.0
        norms = math.sqrt(self.reference_square_sum) * math.sqrt(self.candidate_square_sum)
        return max(-1.0, min(1.0, self.product_sum / norms)) if norms else 0.0


def psnr(rmse: float, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB; inf for no error, nan for an unknown one."""
    if rmse == 0:
        return math.inf
    return 20 * (math.log10(data_range) - math.log10(rmse)) if math.isfinite(rmse) else math.nan


def _dot(left: Array, right: Array) -> float:
    """Not by BLAS: its threads wait for each other, which on a busy machine takes 40 times as long,
    and their number decides the order of the sum.
    """
    return float(np.einsum("i,i->", left, right))


def _epsilon(dtype: np.dtype[Any]) -> float:
    """Spacing of the float type at 1; none for exact types."""
    return 0.0 if is_exact(dtype) else float(ml_dtypes.finfo(dtype).eps)


def _unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.unravel_index(index, shape))


def _incomparable(name: str, reference: AnyArray, candidate: AnyArray) -> OutputDifference:
    nan = math.nan
    return OutputDifference(
        name=name,
        shape=reference.shape,
        dtype=str(reference.dtype),
        max_abs=nan,
        mean_abs=nan,
        rmse=nan,
        rel_l2=nan,
        cosine=nan,
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
