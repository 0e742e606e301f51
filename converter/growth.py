"""How much more memory than the original a run may take, and the fastest plan within that.

What a rewritten graph holds more are Winograd's weights: 4 where 3 taps were, or 10, and twice that
with tiles of rows. What lives beside them at one time is no more than in the original.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from converter import ladder
from converter.conv3d import Conv3D, Unread
from converter.kernels import GENERIC, Target
from converter.memory_need import tensors_at_once
from converter.model_file import weight_bytes
from converter.plan import Plan
from converter.rewrites import WINOGRADS, winograd2d
from converter.rewrites.tiling import PRODUCTS
from converter.rewrites.winograd_limits import tiles_of
from converter.rewrites.winograd_weights import TAPS

MEMORY = "the memory of a run"
"""`PlanEntry.given_up_for` of what a budget of memory changed."""

PROCESS = 60_000_000
"""Bytes of a process that has imported what it takes to run a graph."""

HELD = 1.3
"""Memory that onnxruntime's arena takes, over the tensors that live at once. 1.74 was measured for
Wan 2.1, a chunk of 2 latent frames of 16x16; the rest is a margin."""

DEFAULT = 25.0
"""Percent."""


def within(
    found: Sequence[Conv3D | Unread], plan: Plan, extra: float, target: Target = GENERIC
) -> Plan:
    """The plan with Winograd cut down until its weights take no more than `extra` bytes more."""
    return ladder.within(found, plan, ladder.Budget(extra, extra_weights, MEMORY), target)


def extra_weights(conv: Conv3D, strategy: str) -> float:
    """Bytes by which a layer's weights grow under a strategy, as a runtime holds them."""
    if strategy not in WINOGRADS:
        return 0.0
    taps = TAPS * TAPS if strategy == winograd2d.NAME else TAPS
    rows = winograd2d.ROWS + 2 if strategy == winograd2d.NAME else 1
    size: int = np.dtype(conv.x.dtype).itemsize
    weights = math.prod(d or 1 for d in conv.weight_shape) * size
    products = sum(PRODUCTS[m] for m in set(tiles_of(strategy, conv))) * rows
    return weights * (products / taps - 1)


def allowed(original: onnx.ModelProto, percent: float) -> float | None:
    """Bytes that so many percent of a run of the original are; None where sizes are open.

    The bulky weights of `original` may be left out or not.
    """
    tensors = tensors_at_once(original, _fixed(original))
    if tensors is None:
        return None
    return percent / 100 * (PROCESS + HELD * tensors + weight_bytes(original))


def note(plan: Plan, percent: float) -> str:
    """What was given up, in a sentence; empty where nothing was."""
    given_up = ladder.what_was_given_up(plan, MEMORY)
    if not given_up:
        return ""
    return (
        f"{given_up}: a run may take {percent:g} % more memory than the original's, by estimate; "
        "--memory-growth inf sets no limit"
    )


def _fixed(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The inputs whose sizes are all in the graph."""
    shapes = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes
