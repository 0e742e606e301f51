"""How far a candidate's output is from the reference's, and whether that is within tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from converter.compare.jsonable import jsonable
from converter.compare.tolerance import Tolerance, round_down, round_up

EXACT_TYPES = ("int", "uint", "bool")

BORDER_SHARE = 0.01
"""Of pixels: an error of 1e-5 of the range moves 0.5 % of them over a border of 256 levels."""


@dataclass(frozen=True)
class OutputDifference:
    """How far a candidate's output is from the reference's.

    Errors are taken over the elements that are finite on both sides, and are not numbers (nan)
    when there is none or the shapes differ; `problem` then says so. An empty output has no error.

    - rel_l2: the norm of the difference over the reference's norm.
    - cosine: of the angle between the two as vectors; 1 for two zero vectors, 0 for one.
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
    cosine: float
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
        return self.dtype.startswith(EXACT_TYPES)

    @property
    def equal_pixels(self) -> bool:
        """Whether integers are equal, or are pixels (uint8) that were rounded from equal floats.

        Where a float lies on the border between two levels, its rounding error decides: a few
        pixels may be off by one.
        """
        on_a_border = self.unequal <= BORDER_SHARE * math.prod(self.shape)
        return not self.unequal or (self.dtype == "uint8" and self.max_abs <= 1 and on_a_border)

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
            return "" if self.equal_pixels else f"{self.unequal} elements differ"
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
        if self.problem or self.nonfinite_unequal or (self.exact and not self.equal_pixels):
            return None
        return Tolerance(round_down(self.psnr_db), round_up(self.max_abs_of_range))

    def to_json(self) -> dict[str, Any]:
        """Every field by name; a float that is not finite becomes None, as JSON has none."""
        fields: dict[str, Any] = jsonable(self)
        return fields
