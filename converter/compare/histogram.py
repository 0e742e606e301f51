"""How often an error of each size occurs, on a logarithmic axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.compare.jsonable import jsonable
from converter.compare.metrics import slices
from converter.compare.stored_array import AnyArray

PER_DECADE = 4
_FIRST, _LAST = -20, 10
"""Decades that are told apart; what is beyond counts in the first or the last bin."""


@dataclass(frozen=True)
class Histogram:
    """Absolute errors of the elements that are finite on both sides.

    Bin i holds the errors from 10 ** (first + i / PER_DECADE) up to the next; `zero` those that
    are exactly 0. Empty bins at either end are left out.
    """

    zero: int
    first: float
    counts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Every field by name, and how many bins a decade has."""
        return {**jsonable(self), "bins_per_decade": PER_DECADE}


def histogram(reference: AnyArray, candidate: AnyArray) -> Histogram:
    """Count the absolute errors of two arrays of one shape and type, in float64."""
    zero = 0
    counts = np.zeros((_LAST - _FIRST) * PER_DECADE, np.int64)
    for _, left, right in slices(reference, candidate):
        error = np.abs(left.astype(np.float64) - right.astype(np.float64))
        error = error[np.isfinite(error)]
        positive = error[error > 0]
        zero += error.size - positive.size
        bins = np.floor((np.log10(positive) - _FIRST) * PER_DECADE).astype(np.int64)
        counts += np.bincount(bins.clip(0, counts.size - 1), minlength=counts.size)
    filled = np.flatnonzero(counts)
    if not filled.size:
        return Histogram(zero, math.nan, ())
    start, end = int(filled[0]), int(filled[-1]) + 1
    return Histogram(zero, _FIRST + start / PER_DECADE, tuple(counts[start:end].tolist()))
