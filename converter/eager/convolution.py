"""A 3-D convolution computed by 2-D ones, on PyTorch tensors, by strategy.

x is (N, C, T, H, W); the result (N, O, T', H', W') is contiguous, as functional.conv3d's is. Every
strategy takes every stride, dilation, padding and number of groups, except where it says so.

- temporal: Kh = Kw = 1. One Conv2d of kernel (Kt, 1) over planes (T, H*W); nothing is copied.
- unfold: the Kt frames that an output frame sees are stacked in its channels; one Conv2d.
- taps: one Conv2d a tap on its frames, summed; less memory, more launches.
- winograd: Kt = 3, stride and dilation 1 in time. See `converter.rewrites.cook_toom`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from converter.eager.kernel import Kernel, assume_constant, winograd_matrix, without_autocast
from converter.rewrites import cook_toom
from converter.rewrites.tiling import (
    DIRECT,
    PRODUCTS,
    Segment,
    accurate_tiles,
    cheapest_tiling,
    segments,
)

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# By the type in which products are stored: the relative error that one layer may make. In fp32 the
# largest tiles are within it; in fp16 and bf16 those up to F(4, 3).
_BUDGETS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Geometry:
    """Stride, zero padding (before, after) and dilation along T, H and W."""

    stride: Triple
    pads: Pads
    dilation: Triple

    @property
    def plane_padding(self) -> tuple[int, int]:
        """The padding of the Conv2d, once `pad_unevenly` has been through."""
        return self.pads[1][0], self.pads[2][0]

    def frames_out(self, frames: int, taps: int) -> int:
        """T' from T."""
        span = (taps - 1) * self.dilation[0] + 1
        return (frames + sum(self.pads[0]) - span) // self.stride[0] + 1


def convolve(x: Tensor, kernel: Kernel, geometry: Geometry, strategy: str) -> Tensor:
    """The convolution by `strategy`: temporal, unfold, taps or winograd."""
    x, geometry = _pad(x, geometry, time=strategy != "temporal")
    if strategy == "temporal":
        y = _temporal(x, kernel, geometry)
    elif strategy == "taps":
        y = _taps(x, kernel, geometry)
    elif strategy == "winograd":
        y = _winograd(x, kernel, geometry)
    else:
        y = _unfold(x, kernel, geometry)
    return y.contiguous()


def _pad(x: Tensor, geometry: Geometry, time: bool) -> tuple[Tensor, Geometry]:
    """Pad what the Conv2d cannot: time where its frames are sliced, and uneven pairs."""
    t, h, w = geometry.pads
    now = [pair if pair[0] != pair[1] else (0, 0) for pair in (t, h, w)]
    if time:
        now[0] = t
    if not any(map(any, now)):
        return x, geometry
    x = functional.pad(x, [amount for pair in reversed(now) for amount in pair])
    later = [(0, 0) if any(done) else pair for done, pair in zip(now, (t, h, w), strict=True)]
    return x, replace(geometry, pads=(later[0], later[1], later[2]))


def _temporal(x: Tensor, kernel: Kernel, geometry: Geometry) -> Tensor:
    n, c, t, h, w = x.shape
    y = kernel.conv2d(
        x.reshape(n, c, t, h * w),
        kernel.rows(),
        kernel.bias,
        stride=(geometry.stride[0], 1),
        padding=(geometry.pads[0][0], 0),
        dilation=(geometry.dilation[0], 1),
        groups=kernel.groups,
    )
    return y.reshape(n, y.shape[1], y.shape[2], h, w)


def _unfold(x: Tensor, kernel: Kernel, geometry: Geometry) -> Tensor:
    n, c, _, h, w = x.shape
    seen = _frames_by_tap(x, kernel, geometry)
    frames = seen[0].shape[1]
    planes = torch.stack(seen, dim=3).reshape(n * frames, c * len(seen), h, w)
    return _split(_on_planes(planes, kernel, geometry, kernel.all_taps(), kernel.bias), frames)


def _taps(x: Tensor, kernel: Kernel, geometry: Geometry) -> Tensor:
    # Sums of rounded results are kept in fp32, lest each be rounded again.
    y: Tensor | None = None
    for index, seen in enumerate(_frames_by_tap(x, kernel, geometry)):
        bias = kernel.bias if index == 0 else None
        part = _on_planes(seen.flatten(0, 1), kernel, geometry, kernel.tap(index), bias)
        dtype, frames = part.dtype, seen.shape[1]
        part = part.float() if dtype in (torch.float16, torch.bfloat16) else part
        y = part if y is None else y + part
    assert y is not None
    return _split(y.to(dtype), frames)


def _winograd(x: Tensor, kernel: Kernel, geometry: Geometry) -> Tensor:
    frames = geometry.frames_out(x.shape[2], 3)
    parts = []
    for segment in _cheapest_segments(frames, _tiles_within_budget(x, kernel)):
        seen = x[:, :, segment.first : segment.first + segment.frames + 2]
        if segment.m == DIRECT:
            parts.append(_unfold(seen, kernel, geometry))
        else:
            parts.append(_winograd_segment(seen, kernel, geometry, segment))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _winograd_segment(x: Tensor, kernel: Kernel, geometry: Geometry, segment: Segment) -> Tensor:
    n, c, t, h, w = x.shape
    m, tiles, frames, j = segment.m, segment.tiles, segment.frames, cook_toom.products(segment.m)
    data = winograd_matrix("data", m, tiles, frames).to(x)
    # The transforms keep the type of x: autocast would round more than the Conv2d does.
    with without_autocast(x):
        planes = data @ x.transpose(1, 2).reshape(n, t, c * h * w)
    planes = planes.reshape(n * tiles, j * c, h, w)
    weight, bias = kernel.winograd(m), kernel.winograd_bias(m)
    y = _on_planes(planes, kernel, geometry, weight, bias, products=j)
    out, height, width = kernel.weight.shape[0], *y.shape[2:]
    output = winograd_matrix("output", m, tiles, frames).to(y)
    with without_autocast(x):
        y = output @ y.reshape(n, tiles * j, out * height * width)
    return y.reshape(n, frames, out, height, width).transpose(1, 2)


def _frames_by_tap(x: Tensor, kernel: Kernel, geometry: Geometry) -> list[Tensor]:
    """For each tap the frames (N, T', C, H, W) that it meets: views of x."""
    stride, dilation = geometry.stride[0], geometry.dilation[0]
    taps = kernel.size[0]
    span = (geometry.frames_out(x.shape[2], taps) - 1) * stride + 1
    by_frame = x.transpose(1, 2)
    return [by_frame[:, k * dilation : k * dilation + span : stride] for k in range(taps)]


def _on_planes(
    planes: Tensor,
    kernel: Kernel,
    geometry: Geometry,
    weight: Tensor,
    bias: Tensor | None,
    products: int = 1,
) -> Tensor:
    return kernel.conv2d(
        planes,
        weight,
        bias,
        stride=geometry.stride[1:],
        padding=geometry.plane_padding,
        dilation=geometry.dilation[1:],
        groups=kernel.groups * products,
    )


def _split(planes: Tensor, frames: int) -> Tensor:
    """(N*T', O, H', W') -> (N, O, T', H', W')."""
    n = planes.shape[0] // frames
    return planes.reshape(n, frames, *planes.shape[1:]).transpose(1, 2)


@assume_constant
def _cheapest_segments(frames: int, sizes: tuple[int, ...]) -> tuple[Segment, ...]:
    return segments(cheapest_tiling(frames, {m: PRODUCTS[m] for m in sizes}), frames)


def _tiles_within_budget(x: Tensor, kernel: Kernel) -> tuple[int, ...]:
    stored = kernel.compute_dtype or kernel.result_dtype
    if stored == torch.float32 and _fp32_is_rounded(x.is_cuda):
        stored = torch.float16  # TF32 has fp16's mantissa.
    if stored not in _BUDGETS:
        return tuple(PRODUCTS)
    return accurate_tiles(_BUDGETS[stored], str(stored).removeprefix("torch."))


@assume_constant
def _fp32_is_rounded(on_cuda: bool) -> bool:
    """Whether fp32 convolutions or matrix products are computed in less than fp32 here."""
    return torch.get_float32_matmul_precision() != "highest" or (
        on_cuda and torch.backends.cudnn.allow_tf32
    )
