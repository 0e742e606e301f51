"""Figures that need every element's error: quantiles, ULPs, the least absolute tolerance.

Elements that are not finite on both sides are left out; `OutputDifference` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from converter.compare.metrics import Array, is_exact, slices

QUANTILES = (0.5, 0.9, 0.99, 0.999)


def error_quantiles(
    reference: Array, candidate: Array, quantiles: Sequence[float] = QUANTILES
) -> tuple[float, ...]:
    """Quantiles of the absolute error, interpolated linearly; nan where nothing is finite.

    Needs one array of the errors: float32, or float64 for double and integers.
    """
    wide = reference.dtype == np.float64 or is_exact(reference.dtype)
    dtype = np.float64 if wide else np.float32
    errors: np.ndarray[Any, np.dtype[np.floating[Any]]] = np.empty(reference.size, dtype)
    count = 0
    for left, right in _finite(reference, candidate):
        errors[count : count + left.size] = np.abs(
            left.astype(np.float64) - right.astype(np.float64)
        )
        count += left.size
    if not count:
        return (float("nan"),) * len(quantiles)
    found = np.quantile(errors[:count], quantiles, overwrite_input=True)
    return tuple(float(value) for value in found)


def max_ulp(reference: Array, candidate: Array) -> int | None:
    """The largest distance in units in the last place: how many floats of the type lie between.

    Both zeros are one float. None for integers and booleans, and where nothing is finite.
    """
    if is_exact(reference.dtype):
        return None
    bits = np.dtype(f"u{reference.dtype.itemsize}")
    sign = bits.type(1) << bits.type(8 * bits.itemsize - 1)
    largest = None
    for left, right in _finite(reference, candidate):
        a, b = left.view(bits), right.view(bits)
        # A float's bits without the sign count the floats between it and zero.
        size_a, size_b = (a & ~sign).astype(np.uint64), (b & ~sign).astype(np.uint64)
        apart = np.maximum(size_a, size_b) - np.minimum(size_a, size_b)
        distance = np.where((a ^ b) & sign, size_a + size_b, apart)
        largest = max(largest or 0, int(distance.max()))
    return largest


def least_atol(reference: Array, candidate: Array, rtol: float = 0.0) -> float:
    """The least `atol` with |candidate - reference| <= atol + rtol * |reference| everywhere."""
    least = 0.0
    for left, right in _finite(reference, candidate):
        expected = left.astype(np.float64)
        excess = np.abs(right.astype(np.float64) - expected) - rtol * np.abs(expected)
        least = max(least, float(excess.max()))
    return least


def _finite(reference: Array, candidate: Array) -> Iterator[tuple[Array, Array]]:
    """The elements that are finite on both sides, in slices that are not empty."""
    for _, left, right in slices(reference, candidate):
        both = np.isfinite(left) & np.isfinite(right)
        if both.any():
            yield left[both], right[both]
