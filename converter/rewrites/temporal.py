"""The strategy `temporal`: a kernel of 1x1 in H and W is a Conv2D of height Kt over (T, H*W)."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from converter.constants import Array
from converter.conv3d import AutoPad, ConstantWeight, Conv3D, Refusal
from converter.rewrites.emit import Emitter

NAME = "temporal"


def check(conv: Conv3D) -> Refusal | None:
    """Preconditions:

    1. The kernel is 1x1 in H and W.
    2. H and W are neither strided nor padded.
    """
    if conv.kernel[1:] != (1, 1):
        return Refusal(conv.name, f"temporal needs a kernel of 1x1 in H and W, not {conv.kernel}")
    if conv.stride[1:] != (1, 1):
        return Refusal(conv.name, f"temporal needs stride 1 in H and W, not {conv.stride}")
    if isinstance(conv.plane_pads, AutoPad) or any(conv.plane_pads):
        return Refusal(conv.name, "temporal needs H and W without padding")
    return None


def rewrite(conv: Conv3D, emit: Emitter) -> None:
    """Emit the subgraph, in one of two forms.

    before: x (N, C, T, H, W) -> Conv (O, C/g, Kt, 1, 1)
    planes: Reshape (N, C, T, H*W) -> Conv2D (O, C/g, Kt, 1) -> Reshape (N, O, T', H, W)
    rows:   for N = 1 with H and W both dynamic, where splitting H*W would need shape arithmetic:
            Squeeze, Transpose (H, C, T, W) -> Conv2D (O, C/g, Kt, 1) -> Transpose, Unsqueeze
    """
    n, _, _, h, w = conv.x_shape
    both_dynamic = not isinstance(h, int) and not isinstance(w, int)
    if n == 1 and both_dynamic:
        squeezed = emit.squeeze(conv.x, 0, "squeeze")
        rows = emit.transpose(squeezed, (2, 0, 1, 3), "to_rows")
        y = _conv2d(conv, emit, rows)
        channels_first = emit.transpose(y, (1, 2, 0, 3), "from_rows")
        emit.unsqueeze(channels_first, 0, "unsqueeze", output=conv.y)
        return
    planes = emit.reshape(conv.x, [0, 0, 0, -1], "to_planes")
    y = _conv2d(conv, emit, planes)
    target: Sequence[int] | gs.Tensor
    if both_dynamic:
        hw = emit.dims(conv.x, 3, 5, "hw")
        target = emit.concat([emit.shop.ints([0, 0, 0]), hw], 0, "target")
    else:
        target = [0, 0, 0, *(d if isinstance(d, int) else -1 for d in (h, w))]
    emit.reshape(y, target, "from_planes", output=conv.y)


def _conv2d(conv: Conv3D, emit: Emitter, x: gs.Tensor) -> gs.Tensor:
    inputs = [x, _weight(conv, emit)]
    if conv.bias is not None:
        inputs.append(conv.bias)
    attributes: dict[str, object] = {
        "kernel_shape": [conv.kernel[0], 1],
        "strides": [conv.stride[0], 1],
        "dilations": [conv.dilation[0], 1],
        "group": conv.group,
    }
    if isinstance(conv.time_pads, AutoPad):
        attributes["auto_pad"] = conv.time_pads.mode
    else:
        attributes["pads"] = [conv.time_pads[0], 0, conv.time_pads[1], 0]
    return emit.node("Conv", inputs, "conv2d", **attributes)


def relay(weight: Array) -> Array:
    """(O, C/g, Kt, 1, 1) -> (O, C/g, Kt, 1)."""
    return weight[..., 0]


def _weight(conv: Conv3D, emit: Emitter) -> gs.Tensor:
    o, c, t, _, _ = conv.weight_shape
    if isinstance(conv.weight, ConstantWeight):
        return emit.weight("temporal", (o, c, t, 1), relay)
    return emit.reshape(emit.runtime_weight(), [0, 0, 0, 1], "weight")
