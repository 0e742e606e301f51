"""The estimate of a plan's error, and what is given up for a budget: values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter.accuracy import error_at, layer_error, plan_error, within
from converter.choice import Choice
from converter.plan import Plan, make_plan
from converter.rewrites.tiling import RELATIVE_ERROR
from tests.test_choice import DYNAMIC, conv

F = RELATIVE_ERROR["float32"]
SHORT = {"x_shape": (1, 192, 5, 64, 64), "y_shape": (1, 192, 5, 64, 64)}


@pytest.mark.parametrize(
    ("changes", "strategy", "error"),
    [
        ({}, "winograd", F[8]),
        ({}, "winograd6", F[4]),  # 8 frames are two tiles of 4
        ({}, "winograd4", F[4]),
        ({}, "winograd2", F[2]),
        ({}, "winograd2d", F[8] * 1.9),
        (SHORT, "winograd", F[5]),
        (SHORT, "winograd4", math.sqrt((3 * F[3] ** 2 + 2 * F[2] ** 2) / 5)),
        (DYNAMIC, "winograd", F[4]),  # by windows
        ({}, "unfold", F[1]),
        ({}, "keep", 0.0),
    ],
)
def test_error_of_a_layer(changes, strategy, error):
    assert layer_error(conv(**changes), strategy) == pytest.approx(error)


def test_error_of_a_layer_in_fp16():
    half = conv(x=gs.Variable("x", np.float16, [1, 192, 8, 64, 64]))
    assert layer_error(half, "winograd4") == RELATIVE_ERROR["float16"][4]


def named(*names: str):
    return [replace(conv(), name=name) for name in names]


def planned(found, strategy="winograd", **pins: str) -> Plan:
    seconds = {"winograd": 1.0, "unfold": 3.0, "taps": 2.5}
    return make_plan(found, pins=pins, choose=lambda _: Choice(strategy, "test", seconds=seconds))


def test_errors_of_layers_add_in_squares():
    found = named("a", "b", "c")
    plan = planned(found, b="keep", c="unfold")
    assert plan_error(found, plan) == pytest.approx(math.hypot(F[8], F[1]))


def test_psnr_and_error_are_20_db_a_decade():
    assert error_at(100) / error_at(120) == pytest.approx(10)
    assert error_at(22) == 1


def strategies(found, plan: Plan, error: float) -> list[str]:
    fitted = within(found, plan, error, "cpu")
    allowed = plan_error(found, fitted) <= error
    winograd = [e.strategy for e in fitted.entries if e.strategy.startswith("winograd")]
    assert allowed or not winograd
    return [entry.strategy for entry in fitted.entries]


def test_a_budget_that_is_met_changes_nothing():
    found = named("a", "b")
    plan = planned(found)
    assert within(found, plan, math.hypot(F[8], F[8]) * 1.001) == plan


def test_no_more_layers_are_lowered_than_need_be():
    found = named("a", "b")
    assert strategies(found, planned(found), math.hypot(F[8], F[4]) * 1.001) == [
        "winograd6",
        "winograd",
    ]
    assert strategies(found, planned(found), math.hypot(F[4], F[4]) * 1.001) == ["winograd6"] * 2
    assert strategies(found, planned(found), math.hypot(F[2], F[2]) * 1.001) == ["winograd2"] * 2


def test_tiles_of_rows_are_given_up_before_those_of_frames():
    found = named("a")
    plan = planned(found, "winograd2d")
    assert strategies(found, plan, F[8] * 1.9 * 1.001) == ["winograd2d"]
    assert strategies(found, plan, F[8] * 1.001) == ["winograd"]
    assert strategies(found, plan, F[4] * 1.001) == ["winograd6"]


def test_the_layer_that_costs_least_is_lowered_first():
    """It has a quarter of the pixels, and the same error."""
    large, small = named("large", "small")
    shape = (1, 192, 8, 32, 32)
    small = replace(small, x_shape=shape, y_shape=shape)
    plan = make_plan([large, small], choose=lambda _: Choice("winograd", "estimated"))
    budget = math.hypot(F[8], F[4]) * 1.001
    assert strategies([large, small], plan, budget) == ["winograd", "winograd6"]


@pytest.mark.parametrize("error", [0.0, F[2] / 2])
def test_what_cannot_be_met_leaves_no_winograd_but_what_was_asked_for(error):
    """`taps` is the fastest other strategy; the pinned layer stays as it is."""
    found = named("a", "b")
    fitted = within(found, planned(found, b="winograd"), error)
    assert [entry.strategy for entry in fitted.entries] == ["taps", "winograd"]
    assert [entry.given_up_for for entry in fitted.entries] == ["the accuracy asked", ""]
    assert fitted.entries[0].reason == "no taps side by side, for the accuracy asked"
    asked = make_plan(found, "winograd")
    assert within(found, asked, error) == asked


def test_dynamic_frames_have_one_tile_only():
    found = [conv(**DYNAMIC)]
    assert strategies(found, planned(found), F[4] * 1.001) == ["winograd"]
    assert strategies(found, planned(found), F[4] * 0.999) == ["taps"]
