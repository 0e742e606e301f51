"""The strategy `unfold`: the taps side by side on the channel axis, then one Conv2D.

The idea is SGLang's temporal-unfolded batched Conv2D (its pull request 22971), here for every
attribute that a Conv can have.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Array
from converter.conv3d import ConstantWeight, Conv3D, Refusal
from converter.rewrites import frames
from converter.rewrites.emit import Emitter

NAME = "unfold"


def check(conv: Conv3D) -> Refusal | None:
    """Preconditions:

    1. With groups, the number of channels is known: the taps interleave per group.
    """
    if conv.group > 1 and conv.kernel[0] > 1 and conv.weight_shape[1] is None:
        return Refusal(conv.name, "unfold needs to know the number of channels of a grouped Conv")
    return None


def rewrite(conv: Conv3D, emit: Emitter) -> None:
    """Emit the subgraph.

    before: x (N, C, T, H, W) -> Conv (O, C/g, Kt, Kh, Kw)
    after:  frames (N, T, C, H, W) -> Kt Slices (N, T', C, H, W) -> Concat (N, T', Kt*C, H, W)
            -> merge (N*T', Kt*C, H, W) -> Conv2D (O, Kt*C/g, Kh, Kw) -> y

    With g groups a Gather puts the channels of one group's taps next to each other.
    """
    taps = conv.kernel[0]
    entered = frames.enter(emit)
    unfolded = emit.concat(
        [frames.tap(emit, entered, k) for k in range(taps)], entered.c_axis, "unfold"
    )
    channels = None if conv.weight_shape[1] is None else conv.weight_shape[1] * conv.group
    if conv.group > 1 and taps > 1:
        assert channels is not None
        order = emit.shop.ints(channel_order(channels, conv.group, taps))
        unfolded = emit.node("Gather", [unfolded, order], "interleave", axis=entered.c_axis)
    wide = None if channels is None else channels * taps
    planes = frames.merge(emit, unfolded, entered.t_axis, wide, "unfold")
    inputs = [planes, _weight(conv, emit)]
    if conv.bias is not None:
        inputs.append(conv.bias)
    y = emit.node("Conv", inputs, "conv2d", **frames.plane_attributes(conv))
    frames.leave(emit, y)


def channel_order(channels: int, group: int, taps: int) -> list[int]:
    """From (tap, group, channel) to (group, tap, channel): where each channel comes from."""
    order = np.arange(taps * channels).reshape(taps, group, channels // group)
    return [int(i) for i in order.transpose(1, 0, 2).ravel()]


def relay(weight: Array) -> Array:
    """(O, C/g, Kt, Kh, Kw) -> (O, Kt*C/g, Kh, Kw), the taps outermost among the channels."""
    o, c, t, h, w = weight.shape
    return weight.transpose(0, 2, 1, 3, 4).reshape(o, t * c, h, w)


def _weight(conv: Conv3D, emit: Emitter) -> gs.Tensor:
    o, c, t, h, w = conv.weight_shape
    if isinstance(conv.weight, ConstantWeight):
        wide = None if c is None or t is None else t * c
        return emit.weight("unfold", (o, wide, h, w), relay)
    assert h is not None
    assert w is not None
    taps_first = emit.transpose(emit.runtime_weight(), (0, 2, 1, 3, 4), "weight_taps")
    return emit.reshape(taps_first, [0, -1, h, w], "weight")
