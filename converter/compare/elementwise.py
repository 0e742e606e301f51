"""Figures that need every element's error: quantiles, ULPs, the least absolute tolerance.

Elements that are not finite on both sides are left out; `OutputDifference` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from converter.compare.metrics import Array, is_exact, slices
from converter.compare.selection import quantiles
from converter.compare.stored_array import AnyArray

QUANTILES = (0.5, 0.9, 0.99, 0.999)


def error_quantiles(
    reference: AnyArray, candidate: AnyArray, wanted: Sequence[float] = QUANTILES
) -> tuple[float, ...]:
    """Quantiles of the absolute error, interpolated linearly; nan where nothing is finite.

    Errors count as float32, and as float64 for double and for integers of more than 16 bits. They
    are computed anew in every pass, so that memory holds a slice of them.
    """
    exact = is_exact(reference.dtype)
    wide = reference.dtype == np.float64 or (exact and reference.dtype.itemsize > 2)
    dtype = np.dtype(np.float64 if wide else np.float32)

    def errors() -> Iterator[Array]:
        for left, right in _finite(reference, candidate):
            yield np.abs(left.astype(np.float64) - right.astype(np.float64)).astype(dtype)

    return quantiles(errors, dtype, wanted)


def max_ulp(reference: AnyArray, candidate: AnyArray) -> int | None:
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


def least_atol(reference: AnyArray, candidate: AnyArray, rtol: float = 0.0) -> float:
    """The least `atol` with |candidate - reference| <= atol + rtol * |reference| everywhere."""
    least = 0.0
    for left, right in _finite(reference, candidate):
        expected = left.astype(np.float64)
        excess = np.abs(right.astype(np.float64) - expected) - rtol * np.abs(expected)
        least = max(least, float(excess.max()))
    return least


def _finite(reference: AnyArray, candidate: AnyArray) -> Iterator[tuple[Array, Array]]:
    """The elements that are finite on both sides, in slices that are not empty."""
    for _, left, right in slices(reference, candidate):
        both = np.isfinite(left) & np.isfinite(right)
        if both.any():
            yield left[both], right[both]
