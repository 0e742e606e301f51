"""Into frame-major layout and back: frames beside the batch, so temporal slices are contiguous.

    x (N, C, T, H, W) -> Transpose -> (N, T, C, H, W) -> ... -> merge -> (N*T, C, H, W)
    y (N*T', O, H', W') -> split -> (N, T', O, H', W') -> Transpose -> (N, O, T', H', W')

With a static N of 1 the batch axis is squeezed away first, and nothing depends on a size:

    x (1, C, T, H, W) -> Squeeze -> (C, T, H, W) -> Transpose -> (T, C, H, W), merged already

Otherwise a size that is known is written into the Reshape, one unknown size is inferred, and only
where two are unknown is a shape computed in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from converter.conv3d import AutoPad, Conv3D, Dim
from converter.rewrites.emit import END, Emitter


@dataclass(frozen=True)
class Frames:
    """A tensor in frame-major layout: (T, C, H, W) for N = 1, else (N, T, C, H, W)."""

    tensor: gs.Tensor
    t_axis: int

    @property
    def c_axis(self) -> int:
        """The channel axis, right behind the frames."""
        return self.t_axis + 1


def enter(emit: Emitter, *, pad: bool = True) -> Frames:
    """The Conv's input, frame-major, and padded in time unless told otherwise."""
    conv = emit.conv
    if conv.x_shape[0] == 1:
        squeezed = emit.squeeze(conv.x, 0, "squeeze")
        frames = Frames(emit.transpose(squeezed, (1, 0, 2, 3), "to_frames"), 0)
    else:
        frames = Frames(emit.transpose(conv.x, (0, 2, 1, 3, 4), "to_frames"), 1)
    return _pad_time(emit, frames) if pad else frames


def tap(emit: Emitter, frames: Frames, index: int) -> gs.Tensor:
    """The frames that tap `index` of the kernel meets: T' of them, `stride` apart.

    Of the padded T = (T' - 1) * stride + (Kt - 1) * dilation + 1 + r frames, r < stride, these
    start at index * dilation and end (Kt - 1 - index) * dilation before the last, whatever T is.
    """
    conv = emit.conv
    start = index * conv.dilation[0]
    behind = (conv.kernel[0] - 1 - index) * conv.dilation[0]
    if start == 0 and behind == 0 and conv.stride[0] == 1:
        return frames.tensor
    end = -behind if behind else END
    return emit.slice(frames.tensor, frames.t_axis, start, end, f"tap{index}", conv.stride[0])


def merge(emit: Emitter, tensor: gs.Tensor, t_axis: int, channels: Dim, part: str) -> gs.Tensor:
    """(N, T', C, H, W) -> (N*T', C, H, W); for N = 1 there is nothing to do."""
    if t_axis == 0:
        return tensor
    n, _, _, h, w = emit.conv.x_shape
    frames = emit.conv.y_shape[2]
    batch = n * frames if isinstance(n, int) and isinstance(frames, int) else None
    target = with_one_unknown((batch, channels, h, w))
    if target is not None:
        return emit.reshape(tensor, target, f"{part}_merge")
    chw = emit.dims(tensor, 2, 5, f"{part}_chw")
    shape = emit.concat([emit.shop.ints([-1]), chw], 0, f"{part}_target")
    return emit.reshape(tensor, shape, f"{part}_merge")


def leave(emit: Emitter, planes: gs.Tensor) -> None:
    """(N*T', O, H', W') -> the Conv's output (N, O, T', H', W')."""
    conv = emit.conv
    if conv.x_shape[0] == 1:
        channels_first = emit.transpose(planes, (1, 0, 2, 3), "from_frames")
        emit.unsqueeze(channels_first, 0, "unsqueeze", output=conv.y)
        return
    n, o, t, h, w = conv.y_shape
    target: Sequence[int] | gs.Tensor | None = with_one_unknown((n, t, o, h, w))
    if target is None:
        batch = emit.shop.ints([n]) if isinstance(n, int) else emit.dims(conv.x, 0, 1, "batch")
        ohw = emit.dims(planes, 1, 4, "ohw")
        target = emit.concat([batch, emit.shop.ints([-1]), ohw], 0, "split_target")
    split = emit.reshape(planes, target, "split")
    emit.transpose(split, (0, 2, 1, 3, 4), "from_frames", output=conv.y)


def plane_attributes(conv: Conv3D) -> dict[str, object]:
    """The attributes of a Conv2D that does, on one frame, what the Conv does in H and W."""
    attributes: dict[str, object] = {
        "kernel_shape": list(conv.kernel[1:]),
        "strides": list(conv.stride[1:]),
        "dilations": list(conv.dilation[1:]),
        "group": conv.group,
    }
    if isinstance(conv.plane_pads, AutoPad):
        attributes["auto_pad"] = conv.plane_pads.mode
    else:
        attributes["pads"] = list(conv.plane_pads)
    return attributes


def read_planes(
    emit: Emitter,
    rows: gs.Tensor,
    leading: Sequence[Dim],
    plane: Sequence[Dim],
    sized: gs.Tensor,
    part: str = "result",
) -> gs.Tensor:
    """Read rows as (leading[0], leading[1], H, W).

    Where more than one of these sizes is dynamic, H and W are read off `sized` (..., H, W) at run
    time; of `leading`, only the first may then be unknown.
    """
    target = with_one_unknown((*leading, *plane))
    if target is not None:
        return emit.reshape(rows, target, f"{part}_planes")
    hw = emit.dims(sized, 2, 4, f"{part}_hw")
    known = emit.shop.ints([d if isinstance(d, int) else -1 for d in leading])
    shape = emit.concat([known, hw], 0, f"{part}_target")
    return emit.reshape(rows, shape, f"{part}_planes")


def _pad_time(emit: Emitter, frames: Frames) -> Frames:
    pads = emit.conv.time_pads
    if pads == (0, 0):
        return frames
    rank = 4 + frames.t_axis
    if isinstance(pads, AutoPad):
        amounts = _pads_at_run_time(emit, pads, rank, frames.t_axis)
    else:
        amounts = emit.shop.ints(_pad_vector(pads, rank, frames.t_axis))
    return Frames(emit.node("Pad", [frames.tensor, amounts], "pad_time"), frames.t_axis)


def _pads_at_run_time(emit: Emitter, pads: AutoPad, rank: int, t_axis: int) -> gs.Tensor:
    """Look the padding up by T modulo the stride, on which alone it depends."""
    conv = emit.conv
    table = pads.table(conv.kernel[0], conv.stride[0], conv.dilation[0])
    vectors = np.array([_pad_vector(pair, rank, t_axis) for pair in table], np.int64)
    rows = emit.shop.array(vectors, "pads_by_remainder")
    size = emit.dims(conv.x, 2, 3, "frames")
    remainder = emit.node("Mod", [size, emit.shop.ints([conv.stride[0]])], "remainder")
    row = emit.node("Gather", [rows, remainder], "pads_row", axis=0)
    return emit.reshape(row, [2 * rank], "pads")


def _pad_vector(pair: tuple[int, int], rank: int, t_axis: int) -> list[int]:
    vector = [0] * (2 * rank)
    vector[t_axis], vector[rank + t_axis] = pair
    return vector


def with_one_unknown(dims: Sequence[Dim]) -> list[int] | None:
    """A Reshape target with -1 for the one size that is not static; None if there are more."""
    if sum(not isinstance(d, int) for d in dims) > 1:
        return None
    return [d if isinstance(d, int) else -1 for d in dims]
