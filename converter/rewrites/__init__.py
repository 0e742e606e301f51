"""The strategies, in the order in which `auto` asks them.

From the most special to the most general: the first whose preconditions hold takes the node.
`pointwise` and `temporal` do no work that `unfold` would add; the two forms of Winograd take fewer
products, `winograd2d` where channels are many and rows few; `unfold` beats `taps` by making one
large product of several small ones; `taps` takes whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converter.conv3d import Conv3D, Refusal
from converter.rewrites import (
    pointwise,
    taps,
    temporal,
    unfold,
    winograd,
    winograd2d,
    winograd_limits,
)
from converter.rewrites.emit import Emitter

KEEP = "keep"

WINOGRADS = (winograd2d.NAME, *winograd_limits.LIMITS)
"""The strategies that do not form the sums that a Conv does, and so round otherwise; the most
accurate last.
"""


@dataclass(frozen=True)
class Strategy:
    """One way to rewrite a Conv3D: whether it may, and doing it."""

    name: str
    check: Callable[[Conv3D], Refusal | None]
    rewrite: Callable[[Conv3D, Emitter], None]


STRATEGIES: tuple[Strategy, ...] = tuple(
    Strategy(module.NAME, module.check, module.rewrite)
    for module in (pointwise, temporal, winograd, winograd2d, unfold, taps)
)

LIMITED: tuple[Strategy, ...] = tuple(
    Strategy(name, winograd_limits.CHECKS[name], winograd_limits.REWRITES[name])
    for name in winograd_limits.LIMITED
)
"""Winograd by smaller tiles: taken where a budget of accuracy asks for them, or where named."""

BY_NAME = {strategy.name: strategy for strategy in (*STRATEGIES, *LIMITED)}
