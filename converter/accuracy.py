"""How far a plan is estimated to be from the original, and the cheapest plan within a budget.

A layer's relative error follows from its tiles, by `RELATIVE_ERROR`. The errors of layers are taken
as independent, so their squares add; what the layers behind do to them, and how much of the range a
typical value is, is one factor for all. Measured, 20 log10 of that factor was 22.6 to 29.7 dB for
Winograd by tiles of 8, 4 and 2 frames in Wan 2.1 (a chunk of 2 and a clip of 3 latent frames) and
LTX-Video at their published sizes with random weights, and 38 to 40 dB for a small trained decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from converter.choice import WHY
from converter.conv3d import Conv3D, Unread
from converter.cost import RATES, estimate
from converter.kernels import GENERIC, Target
from converter.plan import ASKED_FOR, PINNED, Plan, PlanEntry
from converter.rewrites import BY_NAME, KEEP, WINOGRADS, unfold, winograd, winograd2d
from converter.rewrites.tiling import DIRECT, RELATIVE_ERROR
from converter.rewrites.winograd_limits import LIMITED, LIMITS, tiling

OFFSET_DB = 22.0
"""PSNR of a graph whose relative error, so estimated, is 1: the least of those measured."""

ASIDE = (PINNED, ASKED_FOR)
"""Reasons of strategies that somebody asked for: no budget changes these."""


def layer_error(conv: Conv3D, strategy: str) -> float:
    """The estimated relative L2 error of one layer under a strategy, against the original."""
    if strategy == KEEP:
        return 0.0
    half = conv.x.dtype == np.dtype(np.float16)
    errors = RELATIVE_ERROR["float16" if half else "float32"]
    if strategy not in WINOGRADS:
        return errors[DIRECT]
    if strategy == winograd2d.NAME:
        return layer_error(conv, winograd.NAME) * winograd2d.LOSS
    tiles = tiling(strategy, conv)
    return math.sqrt(sum(m * errors[m] ** 2 for m in tiles) / sum(tiles))


def plan_error(found: Sequence[Conv3D | Unread], plan: Plan) -> float:
    """The estimated relative error of the whole graph: the layers' errors, added in squares."""
    pairs = zip(found, plan.entries, strict=True)
    return math.sqrt(
        sum(
            layer_error(conv, entry.strategy) ** 2
            for conv, entry in pairs
            if isinstance(conv, Conv3D)
        )
    )


def error_at(psnr_db: float) -> float:
    """The relative error by estimate that a graph of this PSNR has."""
    return float(10 ** ((OFFSET_DB - psnr_db) / 20))


def within(
    found: Sequence[Conv3D | Unread], plan: Plan, error: float, target: Target = GENERIC
) -> Plan:
    """The plan with Winograd by smaller tiles, or left out, until its error is within a budget.

    Of all single changes, the one that takes away the most squared error for a second is made
    first. Where none of what `auto` chose by Winograd can stay, all of it is left out.

    Args:
        found: The Conv3Ds that the plan was made for.
        plan: What is fastest.
        error: The budget, as `plan_error` estimates; 0 leaves no Winograd.
        target: Where seconds that the plan does not know are estimated for.
    """
    ladders = {
        index: list(_ladder(conv, entry, target))
        for index, (conv, entry) in enumerate(zip(found, plan.entries, strict=True))
        if isinstance(conv, Conv3D) and entry.strategy in WINOGRADS and entry.reason not in ASIDE
    }
    taken = {index: ladder[0] for index, ladder in ladders.items()}
    square = plan_error(found, plan) ** 2
    while square > error**2:
        steps = [
            (index, rung)
            for index, ladder in ladders.items()
            for rung in ladder
            if rung.square < taken[index].square
        ]
        if not steps or not error:
            taken = {index: ladder[-1] for index, ladder in ladders.items()}
            break
        index, rung = max(steps, key=lambda step: taken[step[0]].gain(step[1]))
        square += rung.square - taken[index].square
        taken[index] = rung
    entries = [
        _changed(entry, taken[index].strategy) if index in taken else entry
        for index, entry in enumerate(plan.entries)
    ]
    return replace(plan, entries=tuple(entries))


@dataclass(frozen=True)
class _Rung:
    """What one layer may be made of."""

    strategy: str
    square: float
    seconds: float

    def gain(self, other: _Rung) -> float:
        """Squared error that another takes away for each second that it takes more."""
        return (self.square - other.square) / max(other.seconds - self.seconds, 1e-12)


def _ladder(conv: Conv3D, entry: PlanEntry, target: Target) -> Iterator[_Rung]:
    """What the layer has, then Winograd by smaller tiles, then the best strategy without."""
    rates = RATES[target]
    asked = entry.strategy
    measured = entry.seconds.get(asked)
    scale = measured / estimate(conv, asked).seconds(rates) if measured else 1.0
    for name in WINOGRADS[WINOGRADS.index(asked) :]:
        if BY_NAME[name].check(conv) is None:
            seconds = estimate(conv, name).seconds(rates) * scale
            yield _Rung(name, layer_error(conv, name) ** 2, seconds)
    others = {n: s for n, s in entry.seconds.items() if n not in WINOGRADS and n != KEEP}
    if not others:
        others = {unfold.NAME: estimate(conv, unfold.NAME).seconds(rates)}
    best = min(others, key=lambda name: others[name])
    yield _Rung(best, layer_error(conv, best) ** 2, others[best])


def _changed(entry: PlanEntry, strategy: str) -> PlanEntry:
    if strategy == entry.strategy:
        return entry
    limited = strategy in LIMITED
    why = f"tiles of at most {LIMITS[strategy]} frames" if limited else WHY[strategy]
    reason = f"{why}, for the accuracy asked"
    return replace(entry, strategy=strategy, reason=reason, lowered=True)
