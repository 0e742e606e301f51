"""Medians with their spread, and ratios taken pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The middle of some samples and how far they lie apart; quartiles interpolate linearly."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float


def spread(samples: Sequence[float]) -> Spread:
    """The spread of one or more samples."""
    figures = np.quantile(np.asarray(samples, np.float64), [0, 0.25, 0.5, 0.75, 1])
    return Spread(*(float(figure) for figure in figures))


def speedups(first: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times faster `other` was in each round; 2 is half the time.

    Both were timed in the same rounds, one after the other, so that what slows the machine slows
    both of a pair. An interrupted last round has no pair.
    """
    return [a / b for a, b in zip(first, other, strict=False)]
