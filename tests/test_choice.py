"""What `auto` takes: the least estimated cost, among what the target and the accuracy allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter.choice import candidates, cheapest
from converter.conv3d import AutoPad, ConstantWeight, Conv3D
from converter.cost import CPU, estimate


def conv(**changes: object) -> Conv3D:
    """A layer of Wan's second last stage: 192 channels, 8 frames of 64x64."""
    x = gs.Variable("x", np.float32, [1, 192, 8, 64, 64])
    default = Conv3D(
        name="conv",
        node=gs.Node("Conv"),
        graph=gs.Graph(),
        x=x,
        y=gs.Variable("y"),
        bias=None,
        weight=ConstantWeight(gs.Constant("w", np.zeros(1, np.float32)), ()),
        weight_shape=(192, 192, 3, 3, 3),
        x_shape=(1, 192, 8, 64, 64),
        y_shape=(1, 192, 8, 64, 64),
        group=1,
        kernel=(3, 3, 3),
        stride=(1, 1, 1),
        dilation=(1, 1, 1),
        time_pads=(2, 0),
        plane_pads=(1, 1, 1, 1),
        absorbed_pad=None,
    )
    return replace(default, **changes)


def layer(channels: int, frames: int, side: int, **changes: object) -> Conv3D:
    """A layer of Wan, its stages being 384, 192 and 96 channels wide."""
    shape = (1, channels, frames, side, side)
    return conv(weight_shape=(channels, channels, 3, 3, 3), x_shape=shape, y_shape=shape, **changes)


POINTWISE = {"kernel": (1, 1, 1), "weight_shape": (192, 192, 1, 1, 1), "time_pads": (0, 0)}
DYNAMIC = {"x_shape": (1, 192, "T", 64, 64), "y_shape": (1, 192, "T", 64, 64)}


@pytest.mark.parametrize(
    ("changes", "target", "accuracy", "strategy"),
    [
        ({}, "cpu", "fast", "winograd2d"),
        ({}, "generic", "fast", "winograd2d"),
        ({}, "cpu", "exact", "unfold"),
        ({}, "rocm", "fast", "unfold"),
        ({}, "migraphx", "fast", "unfold"),
        (DYNAMIC, "cpu", "fast", "winograd"),
        (DYNAMIC, "generic", "fast", "unfold"),
        (POINTWISE, "cpu", "fast", "pointwise"),
        ({"stride": (2, 1, 1)}, "cpu", "fast", "unfold"),
        ({"dilation": (2, 1, 1)}, "cpu", "fast", "winograd"),
        ({"time_pads": AutoPad("SAME_UPPER")}, "cpu", "fast", "unfold"),
        # A depthwise Conv would be slower in groups that do not fill a block, not faster.
        ({"group": 192, "weight_shape": (192, 1, 3, 3, 3)}, "rocm", "fast", "unfold"),
    ],
)
def test_choice(changes: dict, target: str, accuracy: str, strategy: str) -> None:
    choice = cheapest(conv(**changes), target, accuracy)
    assert choice.strategy == strategy
    assert not choice.refused
    assert choice.seconds[strategy] == min(choice.seconds.values())


def test_candidates_are_what_the_checks_allow() -> None:
    assert candidates(conv(), "cpu") == ["winograd", "winograd2d", "unfold", "taps"]
    assert candidates(conv(), "cpu", "exact") == ["unfold", "taps"]
    time_only = conv(kernel=(3, 1, 1), plane_pads=(0,) * 4, weight_shape=(192, 192, 3, 1, 1))
    assert candidates(time_only, "cuda") == ["temporal", "unfold", "taps"]


@pytest.mark.parametrize(
    ("channels", "frames", "side", "strategy"),
    [
        # Measured on a CPU with AVX-512: winograd2d took 0.75, 0.72, 0.82 and 1.19 of the time.
        (384, 2, 16, "winograd"),  # But its weights would be 18 times the data.
        (384, 4, 32, "winograd2d"),
        (192, 8, 64, "winograd2d"),
        (96, 8, 128, "winograd"),
        # A matrix of all rows is no longer small.
        (192, 8, 240, "winograd"),
    ],
)
def test_rows_are_taken_where_channels_are_many(channels, frames, side, strategy) -> None:
    assert cheapest(layer(channels, frames, side), "cpu").strategy == strategy


def test_products_of_the_estimate() -> None:
    """Direct: 27 products a channel pair and output pixel; F(8, 3): 10 for 8 frames, not 24."""
    pixels = 8 * 64 * 64
    direct = 192 * 192 * 27 * pixels
    assert estimate(conv(), "unfold").products == direct
    assert estimate(conv(), "taps").products == direct
    assert estimate(conv(), "winograd").products == pytest.approx(direct * 10 / 24)
    # In rows 6 for 4, not 12. The data's matrix has 64 columns, that of the result 60.
    conv2d = direct * 10 / 24 * 6 / 12
    data = 192 * 10 * 96 * 64 * 64
    result = 32 * 60 * 192 * 16 * 64
    estimated = estimate(conv(), "winograd2d").products
    assert estimated == pytest.approx(conv2d + 2 * (data + result))
    grouped = conv(group=2, weight_shape=(192, 96, 3, 3, 3))
    assert estimate(grouped, "unfold").products == direct / 2


def test_taps_moves_more_than_unfold_for_many_output_channels() -> None:
    wide = conv(weight_shape=(768, 192, 3, 3, 3))
    assert estimate(wide, "taps").bytes_moved > estimate(wide, "unfold").bytes_moved
    assert estimate(wide, "taps").seconds(CPU) > estimate(wide, "unfold").seconds(CPU)
