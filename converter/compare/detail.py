"""Everything a report tells of one output beyond the verdict's figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.compare.elementwise import QUANTILES, error_quantiles, least_atol, max_ulp
from converter.compare.frames import FrameTable, frame_table
from converter.compare.jsonable import jsonable
from converter.compare.metrics import difference
from converter.compare.output_difference import OutputDifference
from converter.compare.stored_array import AnyArray


@dataclass(frozen=True)
class OutputDetail:
    """One output: `quantiles` of the absolute error at `QUANTILES`, the largest distance in ULPs
    (None for integers), the least atol that passes beside `rtol`, and frames if it has any.
    """

    difference: OutputDifference
    quantiles: tuple[float, ...]
    max_ulp: int | None
    rtol: float
    least_atol: float
    frames: FrameTable | None

    def to_json(self) -> dict[str, Any]:
        """Every figure by name; a float that is not finite becomes None."""
        needed = self.difference.needed()
        names = [f"p{100 * quantile:g}" for quantile in QUANTILES]
        return {
            **self.difference.to_json(),
            "quantiles": jsonable(dict(zip(names, self.quantiles, strict=True))),
            "max_ulp": self.max_ulp,
            "rtol": self.rtol,
            "least_atol": jsonable(self.least_atol),
            "needed_tolerance": needed.to_json() if needed else None,
            "frames": self.frames.to_json() if self.frames else None,
        }


def detail(
    name: str,
    reference: AnyArray,
    candidate: AnyArray,
    *,
    rtol: float = 0.0,
    data_range: float | None = None,
    frames: bool = True,
) -> OutputDetail:
    """Compare an output in full.

    `data_range` is the one that frames are judged by, the reference's own unless given: 2 for
    pixels in -1..1. `frames` compares videos and images frame by frame, which needs scikit-image.
    Where shapes or types differ only `difference` says anything.
    """
    found = difference(name, reference, candidate)
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        unknown = float("nan")
        return OutputDetail(found, (unknown,) * len(QUANTILES), None, rtol, unknown, None)
    table = frame_table(reference, candidate, data_range or found.data_range) if frames else None
    return OutputDetail(
        found,
        error_quantiles(reference, candidate),
        max_ulp(reference, candidate),
        rtol,
        least_atol(reference, candidate, rtol),
        table,
    )
