"""The strategy `winograd2d`: tiles of frames and of rows; `winograd`, nested in itself along H.

The kernel of 3 rows is a convolution along H as that of 3 frames is one along T, and the same
transforms apply: F(m, 3) in time and F(4, 3) in rows take (m+2) * 6 products where 9 * 4 * m are
direct, each a convolution along W alone. There are half as many products as in `winograd`, of data
that are half as large again, so it pays where the products are most of the work: many channels and
few rows.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Array
from converter.conv3d import AutoPad, Conv3D, Dim, Refusal
from converter.rewrites import cook_toom, frames, winograd, winograd_weights
from converter.rewrites.emit import Emitter
from converter.rewrites.tiling import PRODUCTS, Segment, segments
from converter.rewrites.winograd_weights import TAPS

NAME = "winograd2d"
ROWS = 4
"""Output rows of a tile. The sums of larger ones lose more than their products save."""

LOSS = 1.9
"""Its relative error by that of `winograd`: 1.82 to 1.94 over five layers, against float64."""


def check(conv: Conv3D) -> Refusal | None:
    """Preconditions:

    1. Those of `winograd`, T is known, and there is no dilation in time.
    2. Three rows of the kernel, neither strided nor dilated, padded by known amounts.
    3. H and W are known, and there are at least 2 output rows.
    4. The type is fp32 or double: nested, the transforms lose too much of fp16.
    """
    refusal = winograd.check(conv)
    if refusal is not None:
        return Refusal(conv.name, refusal.reason.replace("winograd", NAME, 1))
    if conv.dilation[0] != 1:
        return Refusal(conv.name, f"{NAME} needs dilation 1 in time, not {conv.dilation[0]}")
    rows = conv.kernel[1], conv.stride[1], conv.dilation[1]
    if rows != (TAPS, 1, 1) or isinstance(conv.plane_pads, AutoPad):
        return Refusal(conv.name, f"{NAME} needs 3 rows, stride 1 and dilation 1 in H, not {rows}")
    if not all(isinstance(size, int) for size in (*conv.x_shape[1:], *conv.y_shape[3:])):
        return Refusal(conv.name, f"{NAME} needs known sizes, not {conv.x_shape}")
    if output_rows(conv) < 2:
        return Refusal(conv.name, f"{NAME} needs 2 or more rows, not {output_rows(conv)}")
    if conv.x.dtype == np.float16:
        return Refusal(conv.name, f"{NAME} takes fp32 and double, not {conv.x.dtype}")
    return None


def output_rows(conv: Conv3D) -> int:
    """H' of a Conv whose H is known."""
    h = conv.x_shape[3]
    assert isinstance(h, int)
    assert not isinstance(conv.plane_pads, AutoPad)
    top, _, bottom, _ = conv.plane_pads
    return h + top + bottom - (TAPS - 1)


def weights_per_value(conv: Conv3D) -> float:
    """How many values of transformed weights there are for each value of transformed data."""
    channels, _, _, w = _known(*conv.x_shape[1:])
    o, c = winograd_weights.channels(conv)
    tiles = len(_tiling(conv))
    rows = math.ceil(output_rows(conv) / ROWS)
    return o * c * conv.kernel[2] / (channels * tiles * rows * w)


def rewrite(conv: Conv3D, emit: Emitter) -> None:
    """Emit the subgraph.

    before: x (1, C, T, H, W) -> Conv (O, C/g, 3, 3, Kw)
    after:  frames (T, C, H, W), and for each run of P tiles of m frames, J = m + 2, K = 6,
            R = ceil(H'/4) tiles of rows:
            MatMul B_T^T (J*P, T) -> (P*J, C, H, W) -> MatMul B_H^T (K*R, H) -> Transpose
            -> (P, J*K*C, R, W) -> Conv2D (J*K*O, C/g, 1, Kw), group = J*K*g
            -> (P, J*K, O*R*W') -> MatMul A_T^T x A_H^T (m*4, J*K) -> Transpose
            -> (P*m, O, 4*R, W') -> Slice to the frames and rows that are wanted
            -> Concat of the runs -> y

    Padding costs nothing: columns of B^T that would meet zeros are left out.
    """
    entered = frames.enter(emit, pad=False)
    total = winograd.output_frames(conv)
    parts = [
        _run(conv, emit, entered.tensor, run, index)
        for index, run in enumerate(segments(_tiling(conv, emit.tiles), total))
    ]
    frames.leave(emit, emit.concat(parts, 0, "tiles"))


def row_matrix(rows: int, pads: tuple[int, int], h: int) -> Array:
    """B_H^T for unpadded input: (K*R, H), the product outermost, then the tile.

    Args:
        rows: H', the output rows.
        pads: Rows of zeros above and below.
        h: Rows of the input.
    """
    tiles = math.ceil(rows / ROWS)
    k = ROWS + TAPS - 1
    padded = cook_toom.matrices(ROWS).data(tiles)
    by_product = padded.reshape(tiles, k, -1).transpose(1, 0, 2).reshape(k * tiles, -1)
    return by_product[:, pads[0] : pads[0] + h]


def _run(conv: Conv3D, emit: Emitter, x: gs.Tensor, run: Segment, index: int) -> gs.Tensor:
    """The output frames (frames, O, H', W') of one run of tiles."""
    channels, t, h, w, out_w = _known(*conv.x_shape[1:], conv.y_shape[4])
    o, _ = winograd_weights.channels(conv)
    assert not isinstance(conv.time_pads, AutoPad)
    assert not isinstance(conv.plane_pads, AutoPad)
    top, left, bottom, right = conv.plane_pads
    in_time, in_rows = winograd.transform(run.m), cook_toom.matrices(ROWS)
    j, k = len(in_time.bt), len(in_rows.bt)
    rows, tiles = output_rows(conv), math.ceil(output_rows(conv) / ROWS)
    part = f"run{index}"

    d, low, high = winograd.data_matrix(run, conv.time_pads, t)
    if (low, high) != (0, t):
        x = emit.slice(x, 0, low, high, f"{part}_frames")
    data = winograd.over_frames(emit, d, x, high - low, f"{part}_data")
    planes = emit.reshape(data, [run.tiles * j, channels, h, w], f"{part}_data_planes")
    matrix = emit.shop.array(row_matrix(rows, (top, bottom), h).astype(conv.x.dtype), "rows_matrix")
    data = emit.node("MatMul", [matrix, planes], f"{part}_row_data")
    data = _swap(emit, data, [run.tiles * j, channels, k, tiles * w], f"{part}_row_data")
    data = emit.reshape(data, [run.tiles, j * k * channels, tiles, w], f"{part}_row_data_planes")

    kw = conv.kernel[2]
    form = f"winograd{run.m}x{ROWS}"
    weight = winograd_weights.kernels(emit, np.kron(in_time.g, in_rows.g), form)
    bias = winograd_weights.biases(emit, np.kron(in_time.bias, in_rows.bias), form)
    y = emit.node(
        "Conv",
        [data, weight, *bias],
        f"{part}_conv2d",
        kernel_shape=[1, kw],
        strides=[1, conv.stride[2]],
        dilations=[1, conv.dilation[2]],
        pads=[0, left, 0, right],
        group=j * k * conv.group,
    )

    products = emit.reshape(y, [run.tiles, j * k, o * tiles * out_w], f"{part}_products")
    joint = np.kron(in_time.at, in_rows.at).astype(conv.x.dtype)
    result = emit.node(
        "MatMul", [emit.shop.array(joint, "tiles_matrix"), products], f"{part}_result"
    )
    covered = run.tiles * run.m
    result = _swap(emit, result, [covered, ROWS, o * tiles, out_w], f"{part}_result")
    result = emit.reshape(result, [covered, o, tiles * ROWS, out_w], f"{part}_result_planes")
    if covered != run.frames:
        result = emit.slice(result, 0, 0, run.frames, f"{part}_wanted_frames")
    if tiles * ROWS != rows:
        result = emit.slice(result, 2, 0, rows, f"{part}_wanted_rows")
    return result


def _tiling(conv: Conv3D, sizes: tuple[int, ...] = ()) -> tuple[int, ...]:
    return winograd.tiling(conv, sizes or tuple(PRODUCTS))


def _known(*sizes: Dim) -> list[int]:
    known = [size for size in sizes if isinstance(size, int)]
    assert len(known) == len(sizes)
    return known


def _swap(emit: Emitter, x: gs.Tensor, shape: list[int], part: str) -> gs.Tensor:
    """Read x as `shape`, of rank 4, and exchange its two middle axes."""
    return emit.transpose(emit.reshape(x, shape, f"{part}_tiles"), (0, 2, 1, 3), f"{part}_swapped")
