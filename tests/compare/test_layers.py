import json
import math

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from converter.compare.interface import read_interface
from converter.compare.layer_holders import OUTPUTS_KEY, Holder, holders
from converter.compare.layers import LayerDifference, LayerReport, compare_layers, log_error
from converter.compare.metrics import difference
from converter.compare.tolerance import FP32
from converter.errors import UserError
from tests.compare.graphs import save
from tests.compare.planted import (
    DIMS,
    LAYERS,
    change_a_weight,
    converted,
    decoder,
    drop_the_bias,
    plant,
    shift_a_pad,
    swap_two_taps,
)

pytest.importorskip("onnxruntime")

FEED = {"x": np.random.default_rng(0).standard_normal(DIMS, np.float32)}


def report(reference, candidate, feeds=(FEED,), **options):
    inputs = read_interface(onnx.load(str(candidate)), candidate).inputs
    return compare_layers(
        reference, candidate, feeds, {"x": inputs[0]}, budget=FP32, provider="cpu", **options
    )


@pytest.fixture(scope="module")
def unfolded(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("unfold"), "unfold")


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        (0, change_a_weight),
        (2, change_a_weight),
        (5, change_a_weight),
        (0, shift_a_pad),
        (3, shift_a_pad),
        (1, drop_the_bias),
        (4, drop_the_bias),
        (1, swap_two_taps),
        (2, swap_two_taps),
        (5, swap_two_taps),
    ],
)
def test_a_planted_fault_is_found_in_its_layer(unfolded, layer, fault):
    reference, candidate = unfolded
    found = report(reference, plant(candidate, layer, fault))
    assert found.first_blamed.name == f"c{layer}"
    assert f"c{layer}" in found.sentence()
    beyond = [n for n, one in enumerate(found.layers) if one.local.why_fails(FP32)]
    assert beyond == [layer]  # what follows inherits the error but adds none
    behind = [one.accumulated.why_fails(FP32) for one in found.layers[layer:]]
    assert all(behind)
    assert not any(one.accumulated.why_fails(FP32) for one in found.layers[:layer])


def widen(graph, convs):
    """One more row."""
    for conv in convs:
        next(a for a in conv.attribute if a.name == "pads").ints[:] = [1, 2, 1, 1]


def test_a_fault_that_the_graph_does_not_survive_is_named_all_the_same(unfolded):
    reference, candidate = unfolded
    found = report(reference, plant(candidate, 3, widen))
    assert found.first_blamed.name == "c3"


@pytest.mark.parametrize("strategy", ["auto", "unfold", "taps", "winograd"])
@pytest.mark.parametrize("slice_size", [1, 4])
def test_a_right_conversion_blames_no_layer(tmp_path, strategy, slice_size):
    found = report(*converted(tmp_path, strategy), slice_size=slice_size)
    assert [layer.name for layer in found.layers] == [f"c{n}" for n in range(LAYERS)]
    assert found.first_blamed is None
    assert "no layer of 6 is beyond" in found.sentence()
    assert all(layer.local and layer.accumulated and not layer.reason for layer in found.layers)
    assert found.to_json()["first_blamed"] is None


def test_accumulated_errors_are_those_of_the_whole_graphs(unfolded):
    """Against ONNX's reference evaluator, which knows nothing of parts and slices."""
    reference, candidate = unfolded
    planted = plant(candidate, 1, change_a_weight)
    found = report(reference, planted, slice_size=2)
    values = []
    for path in (reference, planted):
        model = onnx.load(str(path))
        held = holders(model)
        model.graph.output.extend(
            onnx.ValueInfoProto(name=held[f"c{n}"].tensor) for n in range(LAYERS)
        )
        outputs = ReferenceEvaluator(model).run(None, FEED)[1:]
        values.append([held[f"c{n}"].undo(outputs[n]) for n in range(LAYERS)])
    for layer, one, two in zip(found.layers, *values, strict=True):
        expected = np.abs(one.astype(np.float64) - two).max()
        assert layer.accumulated.max_abs == pytest.approx(expected, abs=1e-5)  # fp32 sums of 162


def test_of_several_feeds_each_layer_shows_its_worst(unfolded):
    """A weight of the bias' size shows only where its input is not zero."""
    reference, candidate = unfolded
    planted = plant(candidate, 0, change_a_weight)
    silent = {"x": np.zeros(DIMS, np.float32)}
    assert report(reference, planted, [silent]).first_blamed is None
    alone = report(reference, planted)
    found = report(reference, planted, [silent, FEED, FEED, silent])
    assert (found.feeds, found.first_blamed.name, found.first_blamed.feed) == (4, "c0", 1)
    assert ", feed 1: local error" in found.sentence()
    assert found.layers[0].local == alone.layers[0].local
    assert found.to_json()["layers"][0]["feed"] == 1
    right = report(reference, candidate, [silent, FEED])
    assert right.sentence().endswith("on any of 2 feeds")


def test_what_does_not_run_says_why(unfolded):
    """The first residual sum gets two sizes, so that nothing behind it runs."""
    reference, candidate = unfolded
    stages = []
    found = report(reference, plant(candidate, 1, widen), slice_size=4, notify=stages.append)
    assert [bool(layer.accumulated) for layer in found.layers] == [False] * 6
    assert all(layer.reason.strip("; ") == layer.reason != "" for layer in found.layers)
    assert [layer.local.why_fails(FP32) == "" for layer in found.layers] == [
        True, False, True, True, True, True
    ]  # fmt: skip
    assert stages == ["layers 1 to 4 of 6", "layers 5 to 6 of 6"]


def test_a_layer_that_the_candidate_does_not_hold_is_told(unfolded, tmp_path):
    reference, candidate = unfolded
    model = onnx.load(candidate)
    (entry,) = (e for e in model.metadata_props if e.key == OUTPUTS_KEY)
    entry.value = json.dumps({k: v for k, v in json.loads(entry.value).items() if k != "c3"})
    found = report(reference, save(model, tmp_path / "less.onnx"))
    assert [layer.name for layer in found.layers] == ["c0", "c1", "c2", "c4", "c5"]
    assert found.notes == ("not held by the candidate: c3",)
    assert report(reference, candidate).notes == ()


def test_a_reference_that_does_not_know_its_conv3ds_is_asked_by_name(unfolded, tmp_path):
    """Nothing in it states a rank of 5."""
    _, candidate = unfolded
    model = decoder()
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input[1] += "_"
    moves = [helper.make_node("Identity", [f"w{n}"], [f"w{n}_"]) for n in range(LAYERS)]
    nodes = [*moves, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert holders(model) == {}
    found = report(save(model, tmp_path / "silent.onnx"), candidate)
    assert [layer.name for layer in found.layers] == [f"c{n}" for n in range(LAYERS)]
    assert found.first_blamed is None


def compared(error, size=4):
    """An output of ones but for an error on all elements."""
    ones = np.ones(4)
    return difference("c", ones, ones[:size] + error)


def test_a_layer_is_judged_by_its_own_error_and_else_by_what_accumulated():
    right, wrong, unknown = compared(0), compared(1), compared(0, size=3)
    layers = [
        LayerDifference("a", "a", "NCTHW", wrong, right),
        LayerDifference("b", "b2", "TCHW", None, None, "it does not run"),
        LayerDifference("c", "c2", "TCHW", wrong, None),
    ]
    assert [layer.badness(FP32) for layer in layers] == [(False, 0), (False, -math.inf), (True, 1)]
    broken = LayerDifference("d", "d", "NCTHW", right, unknown)
    assert broken.badness(FP32) == (True, -math.inf)
    found = LayerReport(FP32, tuple(layers), ("a note",))
    assert found.sentence() == (
        "first layer to blame: c (now c2, TCHW), number 2: accumulated error, "
        "PSNR 0.00 dB < 90 dB and max abs 1 of range > 0.0001"
    )
    assert found.to_json() | {"budget": None, "layers": None} == {
        "budget": None,
        "first_blamed": "c",
        "sentence": found.sentence(),
        "feeds": 1,
        "layers": None,
        "notes": ["a note"],
    }
    fine = LayerReport(FP32, (*layers[:2], LayerDifference("e", "e", "NCTHW", right, None)))
    assert fine.sentence() == f"no layer of 2 is beyond {FP32}"
    at = LayerReport(FP32, (broken,), feeds=2).sentence()
    assert at.startswith("first layer to blame: d, number 0, feed 0: local error, float64 [3]")


def test_errors_on_charts_are_powers_of_ten():
    assert log_error(compared(0.01)) == pytest.approx(-2)
    assert log_error(compared(0)) == -math.inf
    assert math.isnan(log_error(compared(0, size=3)))
    assert math.isnan(log_error(None))


def test_layouts_are_undone_and_redone():
    video = np.arange(1 * 2 * 3 * 4 * 5).reshape(1, 2, 3, 4, 5)
    frames = Holder("a", "TCHW")
    held = frames.redo(video)
    np.testing.assert_array_equal(held, video[0].transpose(1, 0, 2, 3))
    np.testing.assert_array_equal(frames.undo(held), video)
    beside = Holder("a", "NTCHW")
    np.testing.assert_array_equal(beside.redo(video), video.transpose(0, 2, 1, 3, 4))
    np.testing.assert_array_equal(beside.undo(beside.redo(video)), video)


def test_without_provenance_names_decide(tmp_path):
    reference = save(decoder(), tmp_path / "a.onnx")
    other = decoder()
    other.graph.initializer[5].raw_data = bytes(4 * DIMS[1])  # the bias b2
    found = report(reference, save(other, tmp_path / "b.onnx"))
    assert found.first_blamed.name == "c2"


def test_graphs_without_a_common_layer_are_refused(tmp_path):
    reference = save(decoder(), tmp_path / "a.onnx")
    other = decoder()
    for node in other.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name[0] == "c":
                    names[place] = f"other_{name}"
    with pytest.raises(UserError, match=r"no Conv3D output of .*a\.onnx is known in .*b\.onnx"):
        report(reference, save(other, tmp_path / "b.onnx"))


def test_broken_provenance_is_no_provenance():
    other = decoder()
    helper.set_model_props(other, {OUTPUTS_KEY: "[1"})
    assert holders(other) == {}


def test_a_layout_that_is_not_known_is_left_out():
    other = decoder()
    held = {
        name: {"tensor": f"{name}2", "layout": layout}
        for name, layout in (("a", "NTCHW"), ("b", "NCX"), ("c", "TCHW"))
    }
    helper.set_model_props(other, {OUTPUTS_KEY: json.dumps(held)})
    assert holders(other) == {"a": Holder("a2", "NTCHW"), "c": Holder("c2", "TCHW")}
