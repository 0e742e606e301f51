"""The strategies, in the order in which `auto` asks them.

From the most special to the most general: the first whose preconditions hold takes the node.
`pointwise` and `temporal` do no work that `unfold` would add; `unfold` beats `taps` by making one
large product of several small ones; `taps` takes whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converter.conv3d import Conv3D, Refusal
from converter.rewrites import pointwise, taps, temporal, unfold, winograd, winograd_limits
from converter.rewrites.emit import Emitter

KEEP = "keep"


@dataclass(frozen=True)
class Strategy:
    """One way to rewrite a Conv3D: whether it may, and doing it."""

    name: str
    check: Callable[[Conv3D], Refusal | None]
    rewrite: Callable[[Conv3D, Emitter], None]


STRATEGIES: tuple[Strategy, ...] = tuple(
    Strategy(module.NAME, module.check, module.rewrite)
    for module in (pointwise, temporal, winograd, unfold, taps)
)

LIMITED: tuple[Strategy, ...] = tuple(
    Strategy(name, winograd_limits.CHECKS[name], winograd_limits.REWRITES[name])
    for name in winograd_limits.LIMITED
)
"""Winograd by smaller tiles: taken where a budget of accuracy asks for them, or where named."""

BY_NAME = {strategy.name: strategy for strategy in (*STRATEGIES, *LIMITED)}
