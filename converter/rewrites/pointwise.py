"""The strategy `pointwise`: a kernel of one tap sees each frame alone, so frames join the batch."""

from __future__ import annotations

from converter.conv3d import Conv3D, Refusal
from converter.rewrites import unfold
from converter.rewrites.emit import Emitter

NAME = "pointwise"


def check(conv: Conv3D) -> Refusal | None:
    """Preconditions:

    1. The kernel has one tap in time (Kt = 1).
    """
    if conv.kernel[0] != 1:
        return Refusal(conv.name, f"pointwise needs a kernel of one tap, not {conv.kernel[0]}")
    return None


def rewrite(conv: Conv3D, emit: Emitter) -> None:
    """Emit the subgraph: `unfold` with a single tap, which needs no Concat.

    before: x (N, C, T, H, W) -> Conv (O, C/g, 1, Kh, Kw)
    after:  frames (N, T, C, H, W) -> merge (N*T, C, H, W) -> Conv2D (O, C/g, Kh, Kw) -> y
    """
    unfold.rewrite(conv, emit)
