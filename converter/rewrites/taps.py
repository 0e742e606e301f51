"""The strategy `taps`: one Conv2D a tap, summed. Less memory than `unfold`, more launches."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from converter.conv3d import ConstantWeight, Conv3D, Refusal
from converter.rewrites import frames
from converter.rewrites.emit import Emitter

NAME = "taps"


def check(conv: Conv3D) -> Refusal | None:
    """No preconditions beyond a Conv that could be read."""
    return None


def rewrite(conv: Conv3D, emit: Emitter) -> None:
    """Emit the subgraph.

    before: x (N, C, T, H, W) -> Conv (O, C/g, Kt, Kh, Kw)
    after:  frames (N, T, C, H, W) -> for each tap k: Slice (N, T', C, H, W)
            -> merge (N*T', C, H, W) -> Conv2D (O, C/g, Kh, Kw); Add all; the bias once -> y
    """
    entered = frames.enter(emit)
    channels = None if conv.weight_shape[1] is None else conv.weight_shape[1] * conv.group
    total: gs.Tensor | None = None
    for k in range(conv.kernel[0]):
        part = f"tap{k}"
        sliced = frames.tap(emit, entered, k)
        planes = frames.merge(emit, sliced, entered.t_axis, channels, part)
        inputs = [planes, _weight(conv, emit, k)]
        if conv.bias is not None and k == 0:
            inputs.append(conv.bias)
        product = emit.node("Conv", inputs, f"{part}_conv2d", **frames.plane_attributes(conv))
        total = product if total is None else emit.node("Add", [total, product], f"sum{k}")
    frames.leave(emit, total)


def _weight(conv: Conv3D, emit: Emitter, k: int) -> gs.Tensor:
    o, c, _, h, w = conv.weight_shape
    if isinstance(conv.weight, ConstantWeight):
        return emit.weight(f"tap{k}", (o, c, h, w), lambda weight: weight[:, :, k])
    assert h is not None
    assert w is not None
    one = emit.slice(emit.runtime_weight(), 2, k, k + 1, f"weight_tap{k}")
    return emit.reshape(one, [0, 0, h, w], f"weight{k}")
