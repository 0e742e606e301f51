"""Which element has a given rank, without sorting and without holding the elements.

A float that is not negative orders as its bits do, read as a whole number. So its leading digits
of 16 bits are counted first, then the next ones of those elements only whose leading digits are
the ones that a rank fell into, and so on: exact, in two passes for float32 and four for float64
(radix selection; Knuth, The Art of Computer Programming, volume 3, sections 5.2.5 and 5.3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from converter.compare.feeds import Array

DIGIT = 16

Passes = Callable[[], Iterator[Array]]
"""The elements, in parts, anew with each call."""


def quantiles(passes: Passes, dtype: np.dtype[Any], wanted: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of floats of `dtype` that are not negative, interpolated linearly between ranks.

    They equal those of `np.quantile`, whose method is `linear` too; nan where there is no element.
    Memory holds a part, and half a megabyte for each rank.
    """
    count = sum(part.size for part in passes())
    if not count:
        return (math.nan,) * len(wanted)
    places = [quantile * (count - 1) for quantile in wanted]
    ranks = {rank for place in places for rank in (math.floor(place), math.ceil(place))}
    values = of_ranks(passes, dtype, ranks)
    found = []
    for place in places:
        below, above = values[math.floor(place)], values[math.ceil(place)]
        share = place - math.floor(place)
        found.append(below + (above - below) * share if share else below)
    return tuple(found)


def of_ranks(passes: Passes, dtype: np.dtype[Any], ranks: Iterable[int]) -> dict[int, float]:
    """The element of each rank, the least one being of rank 0."""
    bits = np.dtype(f"u{dtype.itemsize}")
    heads = dict.fromkeys(ranks, 0)  # the digits that are known
    places = {rank: rank for rank in heads}  # the rank among the elements of this head
    for shift in range(8 * dtype.itemsize - DIGIT, -1, -DIGIT):
        counts = _count(passes, bits, shift, set(heads.values()))
        for rank, head in heads.items():
            up_to = np.cumsum(counts[head])
            digit = int(np.searchsorted(up_to, places[rank], side="right"))
            places[rank] -= int(up_to[digit] - counts[head][digit])
            heads[rank] = head << DIGIT | digit
    return {rank: float(np.array(head, bits).view(dtype)) for rank, head in heads.items()}


def _count(
    passes: Passes, bits: np.dtype[Any], shift: int, heads: set[int]
) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """How often each digit at `shift` occurs behind each head."""
    counts = {head: np.zeros(1 << DIGIT, np.int64) for head in heads}
    for part in passes():
        known = part.view(bits) >> shift
        digits = (known & ((1 << DIGIT) - 1)).astype(np.int64)
        above = known >> DIGIT
        for head, counted in counts.items():
            counted += np.bincount(digits[above == head], minlength=1 << DIGIT)
    return counts
