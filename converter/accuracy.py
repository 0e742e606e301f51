"""How far a plan is estimated to be from the original, and the cheapest plan within a budget.

A layer's relative error follows from its tiles, by `RELATIVE_ERROR`. The errors of layers are taken
as independent, so their squares add; what the layers behind do to them, and how much of the range a
typical value is, is one factor for all. Measured, 20 log10 of that factor was 22.6 to 29.7 dB for
Winograd by tiles of 8, 4 and 2 frames in Wan 2.1 (a chunk of 2 and a clip of 3 latent frames) and
LTX-Video at their published sizes with random weights, and 38 to 40 dB for a small trained decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from converter import ladder
from converter.conv3d import Conv3D, Unread
from converter.kernels import GENERIC, Target
from converter.plan import Plan
from converter.rewrites import KEEP, WINOGRADS, winograd, winograd2d
from converter.rewrites.tiling import DIRECT, RELATIVE_ERROR
from converter.rewrites.winograd_limits import tiles_of

OFFSET_DB = 22.0
"""PSNR of a graph whose relative error, so estimated, is 1: the least of those measured."""

ACCURACY = "the accuracy asked"
"""`PlanEntry.given_up_for` of what a budget of accuracy changed."""


def layer_error(conv: Conv3D, strategy: str) -> float:
    """The estimated relative L2 error of one layer under a strategy, against the original."""
    if strategy == KEEP:
        return 0.0
    half = conv.x.dtype == np.dtype(np.float16)
    errors = RELATIVE_ERROR["float16" if half else "float32"]
    if strategy not in WINOGRADS:
        return errors[DIRECT]
    if strategy == winograd2d.NAME:
        return layer_error(conv, winograd.NAME) * winograd2d.LOSS
    tiles = tiles_of(strategy, conv)
    return math.sqrt(sum(m * errors[m] ** 2 for m in tiles) / sum(tiles))


def plan_error(found: Sequence[Conv3D | Unread], plan: Plan) -> float:
    """The estimated relative error of the whole graph: the layers' errors, added in squares."""
    return math.sqrt(ladder.sum_of(found, plan, _square))


def error_at(psnr_db: float) -> float:
    """The relative error by estimate that a graph of this PSNR has."""
    return float(10 ** ((OFFSET_DB - psnr_db) / 20))


def within(
    found: Sequence[Conv3D | Unread], plan: Plan, error: float, target: Target = GENERIC
) -> Plan:
    """The plan with Winograd cut down until its error is within a budget; see `converter.ladder`.

    `error` is the budget, as `plan_error` estimates; 0 leaves no Winograd.
    """
    return ladder.within(found, plan, ladder.Budget(error**2, _square, ACCURACY), target)


def _square(conv: Conv3D, strategy: str) -> float:
    return layer_error(conv, strategy) ** 2
