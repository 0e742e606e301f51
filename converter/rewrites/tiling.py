"""Which Winograd tiles cover a number of frames, and how accurate a tile is. Pure NumPy.

A tile of m frames costs m + 2 products by F(m, 3); the tile size 1 stands for a frame that is
computed directly and costs 3. So fewer tiles are cheaper and larger tiles less accurate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from converter.rewrites import cook_toom

DIRECT = 1
"""The tile size that means: this frame is computed without Winograd."""

PRODUCTS: Mapping[int, float] = MappingProxyType(
    {DIRECT: 3.0} | {m: float(cook_toom.products(m)) for m in range(2, 9)}
)
"""Products by tile size: the default costs."""

RELATIVE_ERROR: Mapping[str, Mapping[int, float]] = MappingProxyType(
    {
        name: MappingProxyType(dict(enumerate(errors, start=DIRECT)))
        for name, errors in {
            "float32": (9.1e-7, 6.7e-7, 1.3e-6, 1.4e-6, 1.9e-6, 2.4e-6, 4.9e-6, 6.8e-6),
            "float16": (2.1e-4, 5.0e-4, 8.6e-4, 9.4e-4, 1.3e-3, 1.6e-3, 3.2e-3, 4.7e-3),
            "bfloat16": (1.7e-3, 4.0e-3, 7.0e-3, 7.5e-3, 1.1e-2, 1.3e-2, 2.8e-2, 4.2e-2),
        }.items()
    }
)
"""Relative error of one layer by storage type and tile size, as :func:`layer_error` measures it."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring tiles of one size: output frames ``first`` to ``first + frames``.

    ``tiles`` tiles of ``m`` frames cover ``frames`` frames; the last tile may be cut. It reads the
    input frames ``first`` to ``first + frames + 2``.
    """

    m: int
    tiles: int
    first: int
    frames: int


@dataclass(frozen=True)
class LayerError:
    """Errors of one layer against float64: relative L2, and the largest absolute one."""

    relative: float
    max_abs: float


def cheapest_tiling(frames: int, costs: Mapping[int, float] = PRODUCTS) -> tuple[int, ...]:
    """Tile sizes, largest first, that cover ``frames`` output frames at the least total cost.

    ``costs`` gives the cost of one tile of each allowed size. The tiles may cover more frames than
    asked for where that is cheaper; the last one is then cut. Among equally cheap tilings the one
    with the fewest different sizes (each is a Conv with weights of its own) is taken, then the one
    whose largest tile is smallest (the most accurate), then the one with the fewest tiles.

    Raises ValueError without frames or sizes, and for costs that are not positive.
    """
    if frames < 1 or not costs or min(costs) < 1 or min(costs.values()) <= 0:
        raise ValueError(f"No tiling of {frames} frames by tiles that cost {dict(costs)}.")
    return _cheapest_tiling(frames, tuple(sorted(costs.items())))


@lru_cache(maxsize=1024)
def _cheapest_tiling(frames: int, costs: tuple[tuple[int, float], ...]) -> tuple[int, ...]:
    cost = dict(costs)
    candidates = (
        tiling
        for kinds in range(1, len(cost) + 1)
        for allowed in combinations(cost, kinds)
        if set(tiling := _cheapest_of(frames, allowed, cost)) == set(allowed)
    )
    return min(
        candidates,
        # Rounded, so that costs that are equal but for the order of their sum compare as equal.
        key=lambda tiling: (
            round(sum(cost[m] for m in tiling), 9),
            len(set(tiling)),
            max(tiling),
            len(tiling),
        ),
    )


def _cheapest_of(
    frames: int, allowed: tuple[int, ...], cost: Mapping[int, float]
) -> tuple[int, ...]:
    """The cheapest tiling by these sizes, largest first, from the cheapest for fewer frames."""
    best: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, ())]
    for covered in range(1, frames + 1):
        best.append(
            min(
                (previous + cost[m], tiles + 1, (*sizes, m))
                for m in allowed
                for previous, tiles, sizes in (best[max(0, covered - m)],)
            )
        )
    return tuple(sorted(best[frames][2], reverse=True))


def segments(tiling: Iterable[int], frames: int) -> tuple[Segment, ...]:
    """The tiling as runs of equal tiles, laid from frame 0; the last run is cut at ``frames``.

    Raises ValueError if the tiles cover too little or the last one is not needed.
    """
    sizes = tuple(tiling)
    runs: list[Segment] = []
    first = 0
    for m in sorted(set(sizes), reverse=True):
        tiles = sizes.count(m)
        kept = min(tiles * m, frames - first)
        if kept <= (tiles - 1) * m:
            raise ValueError(f"The tiles {sizes} are more than {frames} frames need.")
        runs.append(Segment(m, tiles, first, kept))
        first += kept
    if first < frames:
        raise ValueError(f"The tiles {sizes} do not cover {frames} frames.")
    return tuple(runs)


def accurate_tiles(relative_error: float, dtype: npt.DTypeLike = np.float32) -> tuple[int, ...]:
    """The tile sizes, direct (1) always among them, whose error in one layer is within the budget.

    Raises ValueError for a storage type whose errors are not known.
    """
    name = np.dtype(dtype).name
    if name not in RELATIVE_ERROR:
        raise ValueError(f"No Winograd errors are known for {name}.")
    return tuple(
        m for m, error in RELATIVE_ERROR[name].items() if m == DIRECT or error <= relative_error
    )


def layer_error(
    m: int, dtype: npt.DTypeLike = np.float32, channels: int = 96, seed: int = 0
) -> LayerError:
    """The error of one tile of F(m, 3), or of direct computation for m = 1, against float64.

    One output row of a layer of ``channels`` channels with a 3x3x3 kernel, standard normal input,
    and weights that keep its variance. Everything stored (input, weights, matrices, transformed
    input and weights, products, output) is rounded to ``dtype``; sums are in float32, as kernels
    for these types do, one term after the other, so that the figures are the same on every machine.
    """
    storage = np.dtype(dtype)
    inner, outer, width, taps = channels * 9, 16, 64, 3
    rng = np.random.default_rng(seed)
    x = _stored(rng.standard_normal((m + taps - 1, inner, width)), storage)
    w = _stored(rng.standard_normal((outer, inner, taps)) / math.sqrt(inner * taps), storage)

    windows = np.stack([x[k : k + m] for k in range(taps)]).astype(np.float64)
    exact = np.einsum("ock,ktcs->tos", w.astype(np.float64), windows, optimize=True)
    if m == DIRECT:
        y = _stored(
            _products(w.transpose(0, 2, 1).reshape(outer, -1), x.reshape(-1, width)), storage
        )
        difference = y - exact[0]
    else:
        transform = cook_toom.matrices(m)
        j = cook_toom.products(m)
        frames = x.reshape(j, -1)
        data = _stored(_products(_stored(transform.bt, storage), frames), storage)
        u = cook_toom.transform_weights(w[..., None, None].astype(np.float64), m)
        weights = _stored(u.reshape(j, outer, inner), storage)
        y = _stored(_products(weights, data.reshape(j, inner, width)), storage)
        y = _stored(_products(_stored(transform.at, storage), y.reshape(j, -1)), storage)
        difference = y.reshape(m, outer, width) - exact
    return LayerError(
        relative=float(np.linalg.norm(difference) / np.linalg.norm(exact)),
        max_abs=float(np.abs(difference).max()),
    )


def _products(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``a @ b``, summed in order: the order of a BLAS, and so its error, differs by machine."""
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for k in range(a.shape[-1]):
        total += a[..., k, None] * b[..., k, None, :]
    return total


def _stored(
    values: npt.NDArray[np.generic], dtype: np.dtype[np.generic]
) -> npt.NDArray[np.float32]:
    return values.astype(dtype).astype(np.float32)
