"""The strategy `winograd`: fewer products along time, by Cook-Toom tiles, in frame-major layout.

The form that is fastest on onnxruntime's CPU provider: the transforms of data and result are one
small MatMul each over the frame axis, and all products of a tile are one grouped Conv2D.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Array
from converter.conv3d import AutoPad, ConstantWeight, Conv3D, Refusal
from converter.rewrites import (
    cook_toom,
    frames,
    winograd_phases,
    winograd_weights,
    winograd_windows,
)
from converter.rewrites.emit import Emitter
from converter.rewrites.tiling import DIRECT, PRODUCTS, Segment, cheapest_tiling, segments
from converter.rewrites.winograd_weights import TAPS

NAME = "winograd"
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))

DIRECT_TRANSFORM = cook_toom.Transform(
    bt=np.eye(TAPS), g=np.eye(TAPS), at=np.ones((1, TAPS)), bias=np.eye(TAPS)[0]
)
"""A frame computed directly, in the same form: three products, then their sum."""


def check(conv: Conv3D) -> Refusal | None:
    """Preconditions:

    1. Three taps in time, not strided, padded by known amounts; dilated only where T is known.
    2. N is 1, and there are at least 2 output frames, or their number is known at run time only.
    3. The weights are constants of known shape, stored as they are or in another type: all their
       values are transformed alike.
    4. The type is one that MatMul takes everywhere: fp16, fp32 or double.
    """
    time = conv.kernel[0], conv.stride[0]
    if time != (TAPS, 1) or isinstance(conv.time_pads, AutoPad):
        return Refusal(conv.name, f"winograd needs 3 taps and stride 1 in time, not {time}")
    if conv.dilation[0] != 1 and not isinstance(conv.x_shape[2], int):
        return Refusal(conv.name, "winograd needs a static T where dilation in time is not 1")
    if conv.x_shape[0] != 1:
        return Refusal(conv.name, f"winograd needs a batch of 1, not {conv.x_shape[0]}")
    if isinstance(conv.x_shape[2], int) and output_frames(conv) < 2:
        return Refusal(conv.name, f"winograd needs 2 or more frames, not {output_frames(conv)}")
    if not isinstance(conv.weight, ConstantWeight) or any(
        link.op not in ("Cast", "Identity") for link in conv.weight.chain
    ):
        return Refusal(conv.name, "winograd needs weights that are plain constants")
    if None in conv.weight_shape[:2]:
        return Refusal(conv.name, "winograd needs weights whose channels are known")
    if conv.x.dtype not in FLOATS:
        return Refusal(conv.name, f"winograd takes fp16, fp32 and double, not {conv.x.dtype}")
    return None


def output_frames(conv: Conv3D) -> int:
    """T' of a Conv whose T is known."""
    t = conv.x_shape[2]
    assert isinstance(t, int)
    assert not isinstance(conv.time_pads, AutoPad)
    return t + sum(conv.time_pads) - (TAPS - 1) * conv.dilation[0]


def tiling(conv: Conv3D, sizes: Sequence[int]) -> tuple[int, ...]:
    """The cheapest tiles, of these sizes, for the output frames of a Conv whose T is known.

    Of a dilated Conv the phases are tiled alike, by one size.
    """
    total, d = output_frames(conv), conv.dilation[0]
    if d == 1:
        return cheapest_tiling(total, {m: PRODUCTS[m] for m in sizes})
    counts = {m: winograd_phases.tiles_of_a_phase(total, d, m) for m in sizes}
    best = min(sizes, key=lambda m: (counts[m] * PRODUCTS[m], m))
    return (best,) * (counts[best] * d)


def rewrite(conv: Conv3D, emit: Emitter, sizes: Sequence[int] | None = None) -> None:
    """Emit the subgraph.

    before: x (1, C, T, H, W) -> Conv (O, C/g, 3, Kh, Kw)
    after:  frames (T, C, H, W), and for each run of P tiles of m frames, J = m + 2:
            Reshape (T, C*H*W) -> MatMul B^T (J*P, T) -> Reshape (P, J*C, H, W)
            -> Conv2D (J*O, C/g, Kh, Kw) = G W, group = J*g -> Reshape (J*P, O*H'*W')
            -> MatMul A^T (P*m, J*P) -> Reshape (P*m, O, H', W')
            -> Concat of the runs -> y

    Where T is dynamic, `winograd_windows` draws the form.
    Padding in time costs nothing: the columns of B^T that would meet frames of zeros are left out.
    Nor does dilation: `winograd_phases` says how the matrices differ.

    Args:
        conv: A Conv that `check` has passed.
        emit: Takes the nodes.
        sizes: Tile sizes that may be used (1: direct); by default all that are known.
    """
    if not isinstance(conv.x_shape[2], int):
        tile = winograd_windows.TILE
        weight, bias = _weight(emit, tile), _bias(emit, tile)
        winograd_windows.rewrite(conv, emit, weight, bias)
        return
    entered = frames.enter(emit, pad=False)
    tiles = tiling(conv, tuple(emit.tiles or sizes or PRODUCTS))
    if conv.dilation[0] != 1:
        frames.leave(emit, _phases(conv, emit, entered.tensor, tiles))
        return
    runs = segments(tiles, output_frames(conv))
    parts = [_run(conv, emit, entered.tensor, run, index) for index, run in enumerate(runs)]
    frames.leave(emit, emit.concat(parts, 0, "tiles"))


def transform(m: int) -> cook_toom.Transform:
    """The matrices of F(m, 3); those of a direct frame for m = 1."""
    return DIRECT_TRANSFORM if m == DIRECT else cook_toom.matrices(m)


def data_matrix(run: Segment, pads: tuple[int, int], t: int) -> tuple[Array, int, int]:
    """B^T of a run of tiles for unpadded input: (J*P, last - first), and that range of frames.

    Args:
        run: The tiles; the frames that they read count from the first padded one.
        pads: (begin, end) frames of zeros around the input.
        t: Frames of the input.
    """
    padded = transform(run.m).data(run.tiles)
    first, last = run.first - pads[0], run.first - pads[0] + run.frames + TAPS - 1
    low, high = max(first, 0), min(last, t)
    return padded[:, low - first : high - first], low, high


def output_matrix(run: Segment) -> Array:
    """A^T of a run of tiles: (frames, J*P); rows beyond the frames wanted are left out."""
    return transform(run.m).output(run.tiles)[: run.frames]


def _run(conv: Conv3D, emit: Emitter, x: gs.Tensor, run: Segment, index: int) -> gs.Tensor:
    """The output frames (frames, O, H', W') of one run of tiles."""
    assert not isinstance(conv.time_pads, AutoPad)
    t = conv.x_shape[2]
    assert isinstance(t, int)
    part = f"run{index}"
    d, low, high = data_matrix(run, conv.time_pads, t)
    if (low, high) != (0, t):
        x = emit.slice(x, 0, low, high, f"{part}_frames")
    return _products(conv, emit, x, (d, output_matrix(run)), run.m, part)


def _phases(conv: Conv3D, emit: Emitter, x: gs.Tensor, tiles: Sequence[int]) -> gs.Tensor:
    """The output frames (T', O, H', W') of a Conv that is dilated in time."""
    assert not isinstance(conv.time_pads, AutoPad)
    t, d = conv.x_shape[2], conv.dilation[0]
    assert isinstance(t, int)
    f, count = transform(tiles[0]), len(tiles) // d
    matrices = (
        winograd_phases.data_matrix(f, count, d, conv.time_pads[0], t),
        winograd_phases.output_matrix(f, count, d, output_frames(conv)),
    )
    return _products(conv, emit, x, matrices, tiles[0], "phases")


def _products(
    conv: Conv3D,
    emit: Emitter,
    x: gs.Tensor,
    matrices: tuple[Array, Array],
    m: int,
    part: str,
) -> gs.Tensor:
    """Frames times B^T (J*P, T), one grouped Conv2D, its result times A^T (frames, J*P)."""
    o, c = winograd_weights.channels(conv)
    d, a = matrices
    j = len(transform(m).bt)
    data = over_frames(emit, d, x, d.shape[1], f"{part}_data")
    channels = [len(d) // j, j * c * conv.group]
    data = frames.read_planes(emit, data, channels, conv.x_shape[3:], x, f"{part}_data")
    weight = _weight(emit, m)
    attributes = frames.plane_attributes(conv) | {"group": j * conv.group}
    y = emit.node("Conv", [data, weight, *_bias(emit, m)], f"{part}_conv2d", **attributes)
    result = over_frames(emit, a, y, len(d), f"{part}_result")
    return frames.read_planes(emit, result, [len(a), o], conv.y_shape[3:], y, f"{part}_result")


def _weight(emit: Emitter, m: int) -> gs.Tensor:
    return winograd_weights.kernels(emit, transform(m).g, f"winograd{m}")


def _bias(emit: Emitter, m: int) -> list[gs.Tensor]:
    return winograd_weights.biases(emit, transform(m).bias, f"winograd{m}")


def over_frames(emit: Emitter, matrix: Array, x: gs.Tensor, count: int, part: str) -> gs.Tensor:
    """Multiply a matrix with x, viewed as `count` rows, one a frame or product."""
    rows = emit.reshape(x, [count, -1], f"{part}_rows")
    constant = emit.shop.array(matrix.astype(emit.conv.x.dtype), "winograd_matrix")
    return emit.node("MatMul", [constant, rows], part)
