"""What `auto` chooses for one Conv3D, from what its candidates are estimated to cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from converter.conv3d import Conv3D
from converter.cost import RATES, estimate
from converter.kernels import GENERIC
from converter.rewrites import BY_NAME, KEEP, STRATEGIES, WINOGRADS, winograd2d

FAST = "fast"
EXACT = "exact"

WINOGRAD_TARGETS = (GENERIC, "cpu")
"""Where Winograd's grouped Conv2D has been measured to be fast; elsewhere it must be asked for."""


WEIGHTS_PER_VALUE = 8
"""`winograd2d` multiplies the weights by up to 7. Where these are more than so many times the data,
they are the memory that the graph needs, and reading them is what it does.
"""


@dataclass(frozen=True)
class Choice:
    """A strategy and why; the rest is as in `converter.plan.PlanEntry`."""

    strategy: str
    reason: str
    refused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    given_up_for: str = ""


Chooser = Callable[[Conv3D], Choice]


def candidates(conv: Conv3D, target: str = GENERIC, accuracy: str = FAST) -> list[str]:
    """The strategies that `auto` may take for a Conv3D: exact ones, and Winograd where it pays.

    `accuracy` exact leaves Winograd out: it changes the order and the number of roundings. So does
    fp16, in which its transforms would lose some two bits.
    """
    names = [s.name for s in STRATEGIES if s.check(conv) is None]
    exact = accuracy == EXACT or conv.x.dtype == np.dtype(np.float16)
    # For a dynamic T Winograd computes with sizes, which only the CPU provider does for nothing.
    measured = target == "cpu" or (target in WINOGRAD_TARGETS and isinstance(conv.x_shape[2], int))
    if exact or not measured:
        return [name for name in names if name not in WINOGRADS]
    if winograd2d.NAME in names and winograd2d.weights_per_value(conv) > WEIGHTS_PER_VALUE:
        names.remove(winograd2d.NAME)
    return names


def cheapest(conv: Conv3D, target: str = GENERIC, accuracy: str = FAST) -> Choice:
    """The candidate of the least estimated cost on a target."""
    names = candidates(conv, target, accuracy)
    if not names:
        reasons = [str(s.check(conv)) for s in BY_NAME.values()]
        return Choice(KEEP, "; ".join(reasons), refused=True)
    rates = RATES[target]
    seconds = {name: estimate(conv, name).seconds(rates) for name in names}
    best = min(seconds, key=lambda name: seconds[name])
    return Choice(best, f"{WHY[best]}, the least estimated cost", seconds=seconds)


WHY = {
    "pointwise": "one tap in time",
    "temporal": "1x1 in H and W",
    "winograd": "fewer products",
    "winograd2d": "fewer products in time and in rows",
    "unfold": "one large product",
    "taps": "no taps side by side",
}
