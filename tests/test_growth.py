"""The budget of memory: bytes worked out by hand, and what is given up for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import convert, growth
from converter.choice import Choice
from converter.plan import Plan, make_plan
from tests.test_choice import DYNAMIC, conv

WEIGHT = 192 * 192 * 27 * 4
SHORT = {"x_shape": (1, 192, 5, 64, 64), "y_shape": (1, 192, 5, 64, 64)}


@pytest.mark.parametrize(
    ("changes", "strategy", "factor"),
    [
        ({}, "winograd", 10 / 3),  # one tile of 8 frames
        ({}, "winograd6", 6 / 3),  # two of 4
        ({}, "winograd2", 4 / 3),
        ({}, "winograd2d", 10 * 6 / 9),
        (SHORT, "winograd4", (5 + 4) / 3),  # a tile of 3 frames and one of 2
        (DYNAMIC, "winograd", 6 / 3),
        ({}, "unfold", 1),
        ({}, "keep", 1),
    ],
)
def test_bytes_that_the_weights_of_a_layer_grow_by(changes, strategy, factor):
    assert growth.extra_weights(conv(**changes), strategy) == pytest.approx(WEIGHT * (factor - 1))


def planned(strategy="winograd2d", **pins: str):
    found = [replace(conv(), name=name) for name in ("a", "b")]
    return found, make_plan(found, pins=pins, choose=lambda _: Choice(strategy, "test"))


def strategies(extra: float, **pins: str) -> list[str]:
    found, plan = planned(**pins)
    return [entry.strategy for entry in growth.within(found, plan, extra).entries]


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (2 * (20 / 3 - 1), ["winograd2d", "winograd2d"]),
        (20 / 3 - 1 + 10 / 3 - 1, ["winograd", "winograd2d"]),
        (2 * (10 / 3 - 1), ["winograd", "winograd"]),
        (2 * (6 / 3 - 1), ["winograd6", "winograd6"]),
        (2 * (4 / 3 - 1), ["winograd2", "winograd2"]),
        (0, ["unfold", "unfold"]),
    ],
)
def test_no_more_is_given_up_than_need_be(factors, expected):
    assert strategies(WEIGHT * factors * 1.001) == expected


def test_what_was_asked_for_stays():
    assert strategies(WEIGHT, b="winograd") == ["unfold", "winograd"]


def test_a_note_says_what_was_given_up():
    found, plan = planned()
    assert growth.note(plan, 25) == ""
    cut = growth.within(found, plan, WEIGHT * (2 * (10 / 3 - 1)), "cpu")
    assert [entry.reason for entry in cut.entries] == [
        "fewer products, for the memory of a run"
    ] * 2
    assert growth.note(cut, 25).startswith(
        "Winograd was cut down in 2 Conv3D: a run may take 25 % more memory"
    )
    none = growth.within(found, plan, 0.0)
    assert growth.note(none, 25).startswith("Winograd was left out of 2 Conv3D: ")
    assert growth.note(Plan(()), 25) == ""


def layer(side: int | str, channels: int = 128) -> onnx.ModelProto:
    """One causal layer on 4 frames, with weights of 1.8 MB."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, channels, 3, 3, 3)).astype(np.float32) / 60
    shape = [1, channels, 4, side, side]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[2, 1, 1, 0, 1, 1])
    held = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph([node], "layer", infos[:1], infos[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_what_is_allowed_is_a_share_of_the_originals_memory():
    """Input and output live at once."""
    tensors, weights = 2 * 128 * 4 * 16 * 16 * 4, 128 * 128 * 27 * 4
    allowed = growth.allowed(layer(16), 25)
    assert allowed == pytest.approx(0.25 * (60e6 + 1.3 * tensors + weights))
    assert growth.allowed(layer("side"), 25) is None


@pytest.mark.parametrize(
    ("percent", "strategy"), [(25.0, "winograd2d"), (3.0, "winograd"), (0.0, "unfold")]
)
def test_a_conversion_keeps_to_the_budget(percent: float, strategy: str, tmp_path: Path):
    """Tiles of 4 frames and rows weigh 4 times as much as the taps: 5.3 of 67 MB more."""
    source = tmp_path / "a.onnx"
    onnx.save(layer(16), source)
    result = convert(source, tmp_path / "b.onnx", memory_growth=percent)
    assert result.equal
    assert [entry.strategy for entry in result.plan.entries] == [strategy]
    cut = [note for note in result.notes if note.startswith("Winograd was ")]
    assert len(cut) == (percent < 25)
