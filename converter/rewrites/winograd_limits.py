"""The strategies `winograd6`, `winograd4`, `winograd2`: tiles of at most so many frames.

Smaller tiles cost more products and round less, so they lie between `winograd` and the exact
strategies where a budget of accuracy is to be kept.
"""

from __future__ import annotations

from functools import partial

from converter.conv3d import Conv3D, Refusal
from converter.rewrites import winograd, winograd2d, winograd_windows
from converter.rewrites.emit import Emitter
from converter.rewrites.tiling import PRODUCTS

LIMITS = {
    winograd.NAME: max(PRODUCTS),
    "winograd6": 6,
    "winograd4": 4,
    "winograd2": 2,
}
"""Strategy -> the largest tile that it uses, in output frames; from the largest down."""

LIMITED = tuple(name for name in LIMITS if name != winograd.NAME)


def sizes(name: str) -> tuple[int, ...]:
    """The tile sizes that one of these strategies may use."""
    return tuple(m for m in PRODUCTS if m <= LIMITS[name])


def tiles_of(name: str, conv: Conv3D) -> tuple[int, ...]:
    """The tiles by which a strategy of Winograd covers a Conv's output frames.

    Where T is dynamic, they are all of one size, and how many they are is not known: one stands for
    them.
    """
    if not isinstance(conv.x_shape[2], int):
        return (winograd_windows.TILE,)
    return winograd.tiling(conv, sizes(winograd.NAME if name == winograd2d.NAME else name))


def check(name: str, conv: Conv3D) -> Refusal | None:
    """Preconditions:

    1. Those of `winograd`.
    2. Where T is dynamic, the tile of that form is not too large.
    """
    if not isinstance(conv.x_shape[2], int) and LIMITS[name] < winograd_windows.TILE:
        return Refusal(conv.name, f"{name} needs a static T")
    return winograd.check(conv)


def rewrite(name: str, conv: Conv3D, emit: Emitter) -> None:
    """Emit what `winograd` emits, by smaller tiles."""
    winograd.rewrite(conv, emit, sizes(name))


CHECKS = {name: partial(check, name) for name in LIMITED}
REWRITES = {name: partial(rewrite, name) for name in LIMITED}
