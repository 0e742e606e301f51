"""The judge of every rewrite: the ONNX Conv operator restated in float64 NumPy.

Written from the operator's specification (opset 11 and 22, which agree), for any number of
spatial axes, and from nothing else: it shares no code with the converter, so an error in one
cannot hide an error in the other. Slow on purpose: one plain multiply-add a kernel position.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
) -> np.ndarray:
    """Convolve x (N, C, *spatial) with w (O, C/group, *kernel); an absent attribute is None.

    Returns float64 (N, O, *spatial_out). Raises ValueError where the operator is not defined.
    """
    rank = x.ndim - 2
    kernel = w.shape[2:]
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise ValueError(f"kernel_shape {tuple(kernel_shape)} is not that of the weights {kernel}")
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise ValueError(f"{x.shape} and {w.shape} do not fit together in {group} groups")

    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin, end = begin_end_pads(x.shape[2:], spans, strides, pads, auto_pad)
    padded = np.pad(
        x.astype(np.float64), [(0, 0), (0, 0), *zip(begin, end, strict=True)], mode="constant"
    )
    size = [
        (p - span) // s + 1 for p, span, s in zip(padded.shape[2:], spans, strides, strict=True)
    ]
    if min(size) < 1:
        raise ValueError(f"the output would be empty: {size}")

    in_groups = padded.reshape(x.shape[0], group, -1, *padded.shape[2:])
    kernels = w.astype(np.float64).reshape(group, w.shape[0] // group, *w.shape[1:])
    y = np.zeros((x.shape[0], group, w.shape[0] // group, *size))
    for position in itertools.product(*(range(k) for k in kernel)):
        window = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, n, s in zip(position, dilations, size, strides, strict=True)
        )
        y += np.einsum("ngc...,goc->ngo...", in_groups[(..., *window)], kernels[(..., *position)])
    y = y.reshape(x.shape[0], w.shape[0], *size)
    return y if b is None else y + b.astype(np.float64).reshape(-1, *(1,) * rank)


def begin_end_pads(
    size: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str | None,
) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial axis; a span is a kernel's extent with its holes."""
    rank = len(size)
    if auto_pad in (None, "NOTSET"):
        pads = tuple(pads or (0,) * (2 * rank))
        return list(pads[:rank]), list(pads[rank:])
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"unknown auto_pad {auto_pad}")
    # output = ceil(input / stride); what that needs beyond the input is split between both
    # sides, an odd one going to the end (UPPER) or to the beginning (LOWER).
    total = [
        max((-(-n // s) - 1) * s + span - n, 0)
        for n, s, span in zip(size, strides, spans, strict=True)
    ]
    smaller = [t // 2 for t in total]
    larger = [t - t // 2 for t in total]
    return (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)
