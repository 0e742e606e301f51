"""What each strategy would cost, from the sizes alone: products, bytes moved, launches.

The estimate orders strategies; it is no promise of seconds. Measured times (`converter.tune`)
replace it where they are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from converter.conv3d import Conv3D, Dim
from converter.rewrites import (
    KEEP,
    WINOGRADS,
    pointwise,
    taps,
    temporal,
    unfold,
    winograd2d,
    winograd_windows,
)
from converter.rewrites.tiling import PRODUCTS
from converter.rewrites.winograd_limits import tiles_of

ELEMENT_BYTES = 4
NOMINAL = (1, 16, 8, 32, 32)
"""Sizes assumed for N, C, T, H, W where they are dynamic."""

BLOCK = 16
"""The CPU provider's blocked kernels take groups of a multiple of this many channels."""

UNBLOCKED_SLOWDOWN = 1.5
"""How many times slower a grouped Conv runs whose groups do not fill blocks."""


TRANSFORM_SLOWDOWN = 2.0
"""How many times slower than a Conv the thin matrix products of `winograd2d` run."""


@dataclass(frozen=True)
class Rates:
    """What a target does in a second; only the proportions matter.

    Attributes:
        products: Multiply-adds of a Conv2D.
        bytes_moved: Bytes read or written by operators that compute little.
        launch: Seconds to start one operator.
    """

    products: float
    bytes_moved: float
    launch: float


# The CPU's are round numbers near those of a 2-core x86-64 with AVX-512. `scripts/fit_costs.py`
# holds them to measured times: on such a machine under load, the estimates of winograd, unfold,
# taps and temporal were all 0.25 to 0.29 of what was measured (medians); 0.44 for pointwise.
# The GPU's are guesses that nobody has measured: a reason why Winograd is not among its candidates.
CPU = Rates(products=50e9, bytes_moved=8e9, launch=5e-6)
GPU = Rates(products=20e12, bytes_moved=1e12, launch=1e-5)
RATES: Mapping[str, Rates] = {
    "generic": CPU,
    "cpu": CPU,
    "rocm": GPU,
    "migraphx": GPU,
    "cuda": GPU,
}


@dataclass(frozen=True)
class Cost:
    """What one Conv3D takes under one strategy."""

    products: float
    bytes_moved: float
    launches: int

    def seconds(self, rates: Rates) -> float:
        """The estimate on one target."""
        return (
            self.products / rates.products
            + self.bytes_moved / rates.bytes_moved
            + self.launches * rates.launch
        )


def estimate(conv: Conv3D, strategy: str) -> Cost:
    """The cost of `conv` under a strategy whose preconditions hold, in frame-major layout."""
    n, c, t, h, w = (_size(d, k) for d, k in zip(conv.x_shape, NOMINAL, strict=True))
    frames_out = _size(conv.y_shape[2], t)
    o = conv.weight_shape[0] or NOMINAL[1]
    plane_out = _size(conv.y_shape[3], h) * _size(conv.y_shape[4], w)
    x = n * c * t * h * w * ELEMENT_BYTES
    y = n * o * frames_out * plane_out * ELEMENT_BYTES
    kt = conv.kernel[0]
    direct = n * o * frames_out * plane_out * (c / conv.group) * math.prod(conv.kernel)
    blocked = (c // conv.group) % BLOCK == 0 and (o // conv.group) % BLOCK == 0
    if conv.group > 1 and not blocked:
        direct *= UNBLOCKED_SLOWDOWN
    padded = 2 * x if conv.time_pads != (0, 0) else 0
    # Each tap is sliced (read, written), and read again by what comes next.
    sliced = 3 * kt * x
    if strategy == KEEP:
        return Cost(direct, x + y, 1)
    if strategy == pointwise.NAME:
        return Cost(direct, padded + x + y, 1)
    if strategy == temporal.NAME:
        return Cost(direct, 3 * (x + y), 5)
    if strategy == unfold.NAME:
        return Cost(direct, padded + sliced + kt * x + y, kt + 3)
    if strategy == taps.NAME:
        return Cost(direct, padded + sliced + (4 * kt - 3) * y, 3 * kt)
    assert strategy in WINOGRADS
    tiles = tiles_of(strategy, conv)
    if not isinstance(conv.x_shape[2], int):
        tiles *= math.ceil(frames_out / winograd_windows.TILE)
    products = sum(PRODUCTS[m] for m in tiles)
    if conv.group == 1 and not blocked:  # It groups the products, whose groups are then not full.
        direct *= UNBLOCKED_SLOWDOWN
    in_time = direct * products / (kt * frames_out)
    data, result = products * x / t, products * y / frames_out
    if strategy != winograd2d.NAME:
        # Transform of the data, the Conv2D, transform of the result; each reads and writes.
        return Cost(in_time, x + y + 2 * (data + result), 3 * len(set(tiles)) + 1)
    rows_out = winograd2d.output_rows(conv)
    rows = math.ceil(rows_out / winograd2d.ROWS) * (winograd2d.ROWS + 2)
    # Along H, all rows of a plane are multiplied; at the end, those of a tile, in time as well.
    tile = winograd2d.ROWS * frames_out / len(tiles)
    transforms = (data * rows + result * rows / rows_out * tile) / ELEMENT_BYTES
    moved = x + 2 * data + 4 * data * rows / h + 2 * result * rows / rows_out + 3 * y
    all_products = in_time * rows / (3 * rows_out) + TRANSFORM_SLOWDOWN * transforms
    return Cost(all_products, moved, 5 * len(set(tiles)) + 1)


def _size(dim: Dim, nominal: int) -> int:
    return dim if isinstance(dim, int) else nominal
