"""A plan held to its budgets: of accuracy first, then of memory, which takes no accuracy away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from converter import accuracy, growth
from converter.choice import Chooser
from converter.conv3d import Conv3D, Unread
from converter.kernels import GENERIC, Target
from converter.plan import AUTO, Plan, PlanEntry, make_plan
from converter.rewrites import WINOGRADS
from converter.rewrites.winograd_limits import tiles_of


@dataclass(frozen=True)
class Wishes:
    """What a plan is to be.

    Attributes:
        choose: What `auto` takes for one Conv3D.
        strategy: For all that is not pinned.
        pins: Node name or glob -> strategy.
        target: Where seconds that nobody measured are estimated for.
        error: The budget of `converter.accuracy.within`; None for no limit.
        memory_growth: The budget of `converter.growth.allowed`, in percent; inf for no limit.
        tiles_like: The plan of a graph with the same weights. Where a Conv3D of the same name has
            the same strategy there, its tiles are taken here, so that the files may share them.
    """

    choose: Chooser
    strategy: str = AUTO
    pins: Mapping[str, str] = field(default_factory=dict)
    target: Target = GENERIC
    error: float | None = None
    memory_growth: float = math.inf
    tiles_like: Plan | None = None


def decide(found: Sequence[Conv3D | Unread], original: onnx.ModelProto, wishes: Wishes) -> Plan:
    """Choose a strategy for each Conv3D of a graph.

    Args:
        found: The Conv3Ds.
        original: The graph as it was given, for its memory.
        wishes: What the plan is to be.

    Raises:
        UserError: as `make_plan` does.
    """
    plan = make_plan(found, wishes.strategy, wishes.pins, wishes.choose)
    if wishes.error is not None:
        plan = accuracy.within(found, plan, wishes.error, wishes.target)
    if math.isfinite(wishes.memory_growth):
        extra = growth.allowed(original, wishes.memory_growth)
        if extra is not None:
            plan = growth.within(found, plan, extra, wishes.target)
    alike = () if wishes.tiles_like is None else wishes.tiles_like.entries
    known = {(entry.node, entry.strategy): entry.tiles for entry in alike}
    pairs = zip(found, plan.entries, strict=True)
    return replace(plan, entries=tuple(_with_tiles(conv, entry, known) for conv, entry in pairs))


def _with_tiles(
    conv: Conv3D | Unread, entry: PlanEntry, known: Mapping[tuple[str, str], tuple[int, ...]]
) -> PlanEntry:
    if entry.strategy not in WINOGRADS or isinstance(conv, Unread):
        return entry
    tiles = known.get((entry.node, entry.strategy)) or set(tiles_of(entry.strategy, conv))
    return replace(entry, tiles=tuple(sorted(tiles, reverse=True)))
