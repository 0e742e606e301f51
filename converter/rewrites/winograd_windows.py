"""Winograd where the number of frames is known only at run time: overlapping windows of m + 2.

    x (T, C, H, W) -> Pad to (P+1)*m frames, P = ceil(T'/m) -> blocks (P+1, m, C, H, W)
    -> block p and the first 2 frames of block p+1, side by side: windows (P, m+2, C*H*W)
    -> MatMul B^T -> (P, J*C, H, W) -> Conv2D, group = J*g -> (P, J, O*H'*W')
    -> MatMul A^T -> (P*m, O, H', W') -> Slice of the first T' frames

How much to pad depends on T modulo m alone, and is looked up.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from converter.conv3d import AutoPad, Conv3D
from converter.rewrites import frames
from converter.rewrites.cook_toom import matrices
from converter.rewrites.emit import END, Emitter

TAPS = 3
TILE = 4
"""Frames of a tile: twice fewer products, and at most 3 frames too many."""


def padded_frames(emit: Emitter, x: gs.Tensor, size: gs.Tensor) -> gs.Tensor:
    """X (T, C, H, W) with the Conv's own padding, and zeros up to (P+1)*m frames.

    `size` is T, as a 1-D tensor.
    """
    pads = emit.conv.time_pads
    assert not isinstance(pads, AutoPad)
    begin, end = pads
    rows = []
    for remainder in range(TILE):
        surplus = -(remainder + begin + end - (TAPS - 1)) % TILE
        rows.append([begin, 0, 0, 0, end - (TAPS - 1) + surplus + TILE, 0, 0, 0])
    table = emit.shop.array(np.array(rows, np.int64), "pads_by_remainder")
    remainder = emit.node("Mod", [size, emit.shop.ints([TILE])], "remainder")
    row = emit.node("Gather", [table, remainder], "pads_row", axis=0)
    return emit.node("Pad", [x, emit.reshape(row, [8], "pads")], "pad_time")


def windows(emit: Emitter, padded: gs.Tensor) -> gs.Tensor:
    """((P+1)*m, C, H, W) -> (P, m+2, C*H*W)."""
    # Behind a leading 1, the 0s of the Reshape copy C, H and W, whether they are known or not.
    blocks = emit.reshape(emit.unsqueeze(padded, 0, "batch"), [-1, TILE, 0, 0, 0], "blocks")
    heads = emit.slice(blocks, 0, 0, -1, "heads")
    nexts = emit.slice(blocks, 0, 1, END, "next_blocks")
    overlap = emit.slice(nexts, 1, 0, TAPS - 1, "overlap")
    return emit.reshape(emit.concat([heads, overlap], 1, "windows"), [0, 0, -1], "rows")


def rewrite(conv: Conv3D, emit: Emitter, weight: gs.Tensor, bias: list[gs.Tensor]) -> None:
    """Emit the subgraph drawn above.

    Args:
        conv: A Conv that `winograd.check` has passed.
        emit: Takes the nodes.
        weight: (J*O, C/g, Kh, Kw) of F(TILE, 3).
        bias: (J*O,), or nothing.
    """
    o, c = conv.weight_shape[:2]
    assert o is not None
    assert c is not None
    transform = matrices(TILE)
    j = len(transform.bt)
    dtype = conv.x.dtype
    x = frames.enter(emit, pad=False).tensor
    size = emit.dims(conv.x, 2, 3, "frames")
    padded = padded_frames(emit, x, size)
    rows = windows(emit, padded)
    data = emit.node(
        "MatMul", [emit.shop.array(transform.bt.astype(dtype), "winograd_matrix"), rows], "data"
    )
    planes = frames.read_planes(emit, data, [None, j * c * conv.group], conv.x_shape[3:], padded)
    attributes = frames.plane_attributes(conv) | {"group": j * conv.group}
    y = emit.node("Conv", [planes, weight, *bias], "conv2d", **attributes)
    products = emit.reshape(y, [0, j, -1], "products")
    result = emit.node(
        "MatMul",
        [emit.shop.array(transform.at.astype(dtype), "winograd_matrix"), products],
        "result",
    )
    tiles = frames.read_planes(emit, result, [None, o], conv.y_shape[3:], y)
    assert not isinstance(conv.time_pads, AutoPad)
    change = sum(conv.time_pads) - (TAPS - 1)
    count = emit.node("Add", [size, emit.shop.ints([change])], "frames_out") if change else size
    ints = emit.shop.ints
    frames.leave(emit, emit.node("Slice", [tiles, ints([0]), count, ints([0])], "wanted"))
