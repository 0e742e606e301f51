"""Gates: what a comparison must reach, which one failed, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from converter.compare.detail import OutputDetail
from converter.compare.jsonable import jsonable
from converter.compare.tolerance import Tolerance, round_down, round_up

ATOL, MIN_PSNR, MIN_SSIM = "atol", "min_psnr", "min_ssim"


@dataclass(frozen=True)
class Limits:
    """What one output must reach; None is no gate.

    - atol, rtol: |candidate - reference| <= atol + rtol * |reference| everywhere. One alone
      takes the other as zero.
    - min_psnr: dB, over the whole output.
    - min_ssim: of the worst frame, as a mean would hide one ruined frame among many.
    """

    atol: float | None = None
    rtol: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is any gate."""
        return self != Limits()


@dataclass(frozen=True)
class Gates:
    """Limits for all outputs, others for single ones, and a tolerance where none are given."""

    limits: Limits = Limits()
    by_output: Mapping[str, Limits] = field(default_factory=dict)
    default: Tolerance | None = None

    def of(self, output: str) -> Limits:
        """The limits of one output: its own where it has them, else those of all."""
        own = self.by_output.get(output, Limits())
        given = {name: value for name, value in vars(own).items() if value is not None}
        return replace(self.limits, **given)

    def to_json(self) -> dict[str, Any]:
        """The gates as given; `default` decides where `limits` has none."""
        fields: dict[str, Any] = jsonable(self)
        return fields


@dataclass(frozen=True)
class Failure:
    """A gate that an output did not pass, and what it reached instead; nan where unknown."""

    gate: str
    limit: float
    reached: float
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        fields: dict[str, Any] = jsonable(self)
        return fields


def failures(found: OutputDetail, gates: Gates) -> tuple[Failure, ...]:
    """Every gate that the output does not pass; what is no number passes none."""
    limits = gates.of(found.difference.name)
    if not limits.any and gates.default is None:
        return ()
    unfit = _unfit(found)
    if unfit:
        return (unfit,)
    if found.difference.exact:
        return ()
    if not limits.any:
        assert gates.default is not None
        return _by_tolerance(found, gates.default)
    return tuple(
        failure
        for failure in (
            _elementwise(found, limits),
            _psnr(found, limits.min_psnr),
            _ssim(found, limits.min_ssim),
        )
        if failure
    )


def passing(found: OutputDetail) -> Limits | None:
    """The tightest gates that the output would pass, to two digits; None where there are none."""
    if _unfit(found):
        return None
    worst = found.frames.ssim.min if found.frames else math.nan
    return Limits(
        atol=round_up(found.least_atol),
        rtol=found.rtol,
        min_psnr=round_down(found.difference.psnr_db),
        min_ssim=None if math.isnan(worst) else math.floor(worst * 1e4) / 1e4,
    )


def options(limits: Limits) -> str:
    """The limits as options of the command line."""
    shown = {
        "--atol": limits.atol,
        "--rtol": limits.rtol or None,
        "--min-psnr": limits.min_psnr,
        "--min-ssim": limits.min_ssim,
    }
    return " ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)


def _unfit(found: OutputDetail) -> Failure | None:
    """What no tolerance excuses: shapes, NaNs on one side, integers that differ."""
    one = found.difference
    if one.problem:
        return Failure("shape", math.nan, math.nan, one.problem)
    if one.nonfinite_unequal:
        sentence = (
            f"{one.nonfinite_unequal} elements are NaN or infinite on one side only, "
            f"the first at {one.worst_index}"
        )
        return Failure("finite", 0, one.nonfinite_unequal, sentence)
    if one.exact and not one.equal_pixels:
        return Failure("equal", 0, one.unequal, f"{one.unequal} elements differ")
    return None


def _elementwise(found: OutputDetail, limits: Limits) -> Failure | None:
    if limits.atol is None and limits.rtol is None:
        return None
    atol, rtol = limits.atol or 0.0, limits.rtol or 0.0
    if found.least_atol <= atol:
        return None
    beside = f" beside --rtol {rtol:g}" if rtol else ""
    times = f", {found.least_atol / atol:.3g} times as much as allowed" if atol else ""
    sentence = f"needs --atol {found.least_atol:.4g}{beside}, not {atol:g}{times}"
    return Failure(ATOL, atol, found.least_atol, sentence)


def _psnr(found: OutputDetail, least: float | None) -> Failure | None:
    reached = found.difference.psnr_db
    if least is None or reached >= least:
        return None
    sentence = f"PSNR {reached:.2f} dB is {least - reached:.2f} dB below --min-psnr {least:g}"
    return Failure(MIN_PSNR, least, reached, sentence)


def _ssim(found: OutputDetail, least: float | None) -> Failure | None:
    if least is None:
        return None
    spread = found.frames.ssim if found.frames else None
    if found.frames is None or spread is None or math.isnan(spread.min):
        sentence = "SSIM is not known: it needs finite frames of at least 11 x 11 pixels"
        return Failure(MIN_SSIM, least, math.nan, sentence)
    unknown = sum(math.isnan(frame.ssim) for frame in found.frames.frames)
    if unknown:
        sentence = f"SSIM is not known for {unknown} frames that are not finite"
        return Failure(MIN_SSIM, least, math.nan, sentence)
    if spread.min >= least:
        return None
    worst = min(found.frames.frames, key=lambda frame: frame.ssim)
    sentence = (
        f"SSIM {spread.min:.4f} of frame {worst.frame} is {least - spread.min:.2g} below "
        f"--min-ssim {least:g}"
    )
    return Failure(MIN_SSIM, least, spread.min, sentence)


def _by_tolerance(found: OutputDetail, tolerance: Tolerance) -> tuple[Failure, ...]:
    one = found.difference
    failed = []
    if not one.psnr_db >= tolerance.min_psnr_db:
        short = tolerance.min_psnr_db - one.psnr_db
        sentence = (
            f"PSNR {one.psnr_db:.2f} dB is {short:.2f} dB below the {tolerance.min_psnr_db:g} dB "
            "that the precision explains"
        )
        failed.append(Failure(MIN_PSNR, tolerance.min_psnr_db, one.psnr_db, sentence))
    if not one.max_abs_of_range <= tolerance.max_abs_of_range:
        sentence = (
            f"max abs {one.max_abs_of_range:.3g} of the range is more than the "
            f"{tolerance.max_abs_of_range:g} that the precision explains"
        )
        limit = tolerance.max_abs_of_range
        failed.append(Failure("max_abs_of_range", limit, one.max_abs_of_range, sentence))
    return tuple(failed)
