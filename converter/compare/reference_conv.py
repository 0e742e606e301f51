"""Convolution of any rank in float64 NumPy, from the words of the ONNX specification.

One matrix product per kernel position. The `Conv` of onnx's own reference evaluator agrees with
it, but unfolds its input (27 copies for a 3x3x3 kernel) and multiplies bfloat16 some twenty times
slower. Shares no code with the rewrites that it judges.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class _Geometry:
    """Per spatial axis: stride, dilation, zeros before and after, output size."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    output: tuple[int, ...]


def conv(x: Array, w: Array, b: Array | None, attributes: Mapping[str, Any]) -> Array:
    """ONNX Conv of x (N, C, *spatial) with w (O, C/group, *kernel) and b (O) or None.

    `attributes` are the operator's: group, strides, dilations, pads, auto_pad; missing or None
    means the default. Accumulates in float64 and returns x's type.
    """
    geometry = _geometry(x.shape, w.shape, attributes)
    group = attributes.get("group") or 1
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *geometry.pads))
    batch, channels = x.shape[:2]
    grouped = padded.reshape(batch, group, channels // group, *padded.shape[2:])
    weights = w.astype(np.float64).reshape(group, w.shape[0] // group, *w.shape[1:])
    count = math.prod(geometry.output)
    total: Array = np.zeros((batch, group, w.shape[0] // group, count))
    for position in itertools.product(*(range(size) for size in w.shape[2:])):
        seen: tuple[Any, ...] = (Ellipsis, *_window(position, geometry))
        tap: tuple[Any, ...] = (Ellipsis, *position)
        total += weights[tap] @ grouped[seen].reshape(batch, group, channels // group, count)
    y = total.reshape(batch, w.shape[0], *geometry.output)
    if b is not None:
        y += b.astype(np.float64).reshape(-1, *[1] * (x.ndim - 2))
    return y.astype(x.dtype)


def multiplications(
    x_shape: Sequence[int], w_shape: Sequence[int], attributes: Mapping[str, Any]
) -> int:
    """How many multiplications the convolution takes."""
    output = _geometry(x_shape, w_shape, attributes).output
    return x_shape[0] * math.prod(output) * math.prod(w_shape)


def _geometry(
    x_shape: Sequence[int], w_shape: Sequence[int], attributes: Mapping[str, Any]
) -> _Geometry:
    rank = len(x_shape) - 2
    strides = tuple(attributes.get("strides") or [1] * rank)
    dilations = tuple(attributes.get("dilations") or [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(w_shape[2:], dilations, strict=True)]
    mode = attributes.get("auto_pad") or "NOTSET"
    if mode == "NOTSET":
        flat = attributes.get("pads") or [0] * 2 * rank
        pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    elif mode == "VALID":
        pads = ((0, 0),) * rank
    else:
        sizes = zip(x_shape[2:], spans, strides, strict=True)
        pads = tuple(_same_pads(*size, extra_first=mode == "SAME_LOWER") for size in sizes)
    output = tuple(
        (size + sum(pad) - span) // stride + 1
        for size, pad, span, stride in zip(x_shape[2:], pads, spans, strides, strict=True)
    )
    return _Geometry(strides, dilations, pads, output)


def _same_pads(size: int, span: int, stride: int, extra_first: bool) -> tuple[int, int]:
    """Zeros so that ceil(size / stride) positions fit; an odd one goes first or last."""
    wanted = -(-size // stride)
    zeros = max(0, (wanted - 1) * stride + span - size)
    small, large = zeros // 2, zeros - zeros // 2
    return (large, small) if extra_first else (small, large)


def _window(position: Sequence[int], geometry: _Geometry) -> tuple[slice, ...]:
    """What this kernel position sees of the padded input."""
    return tuple(
        slice(tap * dilation, tap * dilation + (count - 1) * stride + 1, stride)
        for tap, dilation, stride, count in zip(
            position, geometry.dilations, geometry.strides, geometry.output, strict=True
        )
    )
