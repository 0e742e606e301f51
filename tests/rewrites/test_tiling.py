"""Tilings against brute force, and the accuracy of tiles against the figures they are chosen by."""

from itertools import combinations_with_replacement

import ml_dtypes
import numpy as np
import pytest

from converter.rewrites.tiling import (
    DIRECT,
    PRODUCTS,
    RELATIVE_ERROR,
    Segment,
    accurate_tiles,
    cheapest_tiling,
    layer_error,
    segments,
)

EVEN = {m: PRODUCTS[m] for m in (1, 2, 4, 6, 8)}
LARGE_ONLY = {4: 6.0, 8: 10.0}
NO_DIRECT_SAVING = {1: 1.0, 4: 6.0}
MEASURED = {1: 3.4, 2: 4.1, 4: 6.9, 6: 8.3, 8: 14.0}


def every_tiling(frames, sizes):
    for count in range(1, frames + 1):
        for tiling in combinations_with_replacement(sorted(sizes), count):
            if sum(tiling) >= frames and sum(tiling) - tiling[0] < frames:
                yield tiling


@pytest.mark.parametrize(
    "costs", [PRODUCTS, EVEN, LARGE_ONLY, NO_DIRECT_SAVING, MEASURED, {1: 3.0}]
)
@pytest.mark.parametrize("frames", range(1, 14))
def test_cheapest_tiling_against_brute_force(frames, costs):
    tiling = cheapest_tiling(frames, costs)
    assert tiling == tuple(sorted(tiling, reverse=True))
    assert set(tiling) <= set(costs)
    assert sum(tiling) >= frames

    def key(sizes):
        cost = round(sum(costs[m] for m in sizes), 6)
        return cost, len(set(sizes)), max(sizes), len(sizes)

    assert key(tiling) == min(key(sizes) for sizes in every_tiling(frames, costs))


@pytest.mark.parametrize(
    ("frames", "costs", "tiling"),
    [
        (8, PRODUCTS, (8,)),
        (9, EVEN, (8, 1)),
        (3, EVEN, (4,)),  # 6 products, one frame dropped, against 7 for (2, 1)
        (7, EVEN, (8,)),
        (12, EVEN, (6, 6)),
        (9, PRODUCTS, (5, 4)),
        (5, {1: 3.0}, (1, 1, 1, 1, 1)),
    ],
)
def test_tilings_worked_by_hand(frames, costs, tiling):
    assert cheapest_tiling(frames, costs) == tiling


def test_long_clips_are_tiled_quickly():
    tiling = cheapest_tiling(161)
    assert sum(tiling) == 161
    assert sum(PRODUCTS[m] for m in tiling) == 161 + 2 * 21


@pytest.mark.parametrize(
    ("frames", "costs"), [(0, PRODUCTS), (4, {}), (4, {2: 0.0}), (4, {0: 1.0, 2: 4.0})]
)
def test_meaningless_tilings_are_refused(frames, costs):
    with pytest.raises(ValueError, match="No tiling"):
        cheapest_tiling(frames, costs)


def test_segments_lay_the_tiles_from_frame_0():
    assert segments((6, 6, 4), 15) == (Segment(6, 2, 0, 12), Segment(4, 1, 12, 3))
    assert segments((1, 8), 9) == (Segment(8, 1, 0, 8), Segment(1, 1, 8, 1))
    for tiling, frames in [((8,), 9), ((4, 4), 4), ((), 1)]:
        with pytest.raises(ValueError, match="The tiles"):
            segments(tiling, frames)


@pytest.mark.parametrize("frames", range(1, 30))
@pytest.mark.parametrize("costs", [PRODUCTS, EVEN, LARGE_ONLY])
def test_segments_of_every_cheapest_tiling_meet(frames, costs):
    covered = 0
    for segment in segments(cheapest_tiling(frames, costs), frames):
        assert segment.first == covered
        assert (segment.tiles - 1) * segment.m < segment.frames <= segment.tiles * segment.m
        covered += segment.frames
    assert covered == frames


# Measured once on 96 channels by onnxruntime's kernels, which keep several partial sums. A single
# one, as here, rounds up to 2.7 times as much: hence a margin of 3.
MEASURED_FLOAT32 = {2: 2.8e-7, 4: 5.3e-7, 6: 8.8e-7, 8: 3.1e-6}


@pytest.mark.parametrize("m", MEASURED_FLOAT32)
def test_float32_error_is_near_that_of_a_kernel(m):
    error = layer_error(m)
    assert MEASURED_FLOAT32[m] <= error.relative <= 3 * MEASURED_FLOAT32[m]
    assert error.max_abs <= 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_table_of_errors_is_what_is_measured(dtype):
    table = RELATIVE_ERROR[np.dtype(dtype).name]
    assert list(table) == list(PRODUCTS)
    for m, error in table.items():
        # Another seed than the table's: seeds differ by 5 %.
        assert layer_error(m, dtype, seed=7).relative == pytest.approx(error, rel=0.1)


def test_budget_picks_tiles():
    assert accurate_tiles(1.0) == tuple(range(1, 9))
    assert accurate_tiles(1.5e-6) == (1, 2, 3, 4)
    assert accurate_tiles(1e-3, np.float16) == (1, 2, 3, 4)
    assert accurate_tiles(0.0, ml_dtypes.bfloat16) == (DIRECT,)
    with pytest.raises(ValueError, match="float64"):
        accurate_tiles(1.0, np.float64)
