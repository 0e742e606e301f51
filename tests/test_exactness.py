"""Converted graphs against the float64 oracle: random ones first, then the hard corners."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter import convert
from tests import execute, function_graphs, graphs, nested_graphs, pad_graphs
from tests.conv_case import ConvCase
from tests.execute import NEWEST_OPSET, all_nodes, assert_right, conv3d_left
from tests.judge import (
    assert_converted,
    assert_no_shape_arithmetic,
    convert_model,
    rounding,
)
from tests.random_cases import conv_cases
from tests.weight_sources import WEIGHT_SOURCES, lowest_opset, sparse

STRATEGIES = ("auto", "unfold", "taps")
# One for each strategy that "auto" can choose.
KERNELS = {"full": (2, 3, 3), "pointwise": (1, 3, 3), "temporal": (3, 1, 1)}
SUBSETS = ["".join(axes) for n in range(5) for axes in itertools.combinations("NTHW", n)]

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def _random_graph_is_converted(folder, case, strategy):
    trial = graphs.single(case)
    assert_no_shape_arithmetic(*assert_converted(trial, folder, strategy), trial, case)


@settings(max_examples=500)
@given(case=conv_cases(), strategy=st.sampled_from(STRATEGIES))
def test_random_graphs(folder, case, strategy):
    _random_graph_is_converted(folder, case, strategy)


@pytest.mark.long
@settings(max_examples=5000, derandomize=False)
@given(case=conv_cases(), strategy=st.sampled_from(STRATEGIES))
def test_many_random_graphs(folder, case, strategy):
    _random_graph_is_converted(folder, case, strategy)


@settings(max_examples=60)
@given(
    case=conv_cases(),
    frames=st.integers(1, 20),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_random_winograd(folder, case, frames, pads):
    """Every length of a clip, so every mixture of tiles, or open; the plane's attributes vary."""
    plane = case.pads or (0,) * 6
    frames = max(frames, 2 if case.auto_pad else 4 - sum(pads))  # Two frames of output at least.
    case = replace(
        case,
        batch=1,
        kernel=(3, *case.kernel[1:]),
        size=(frames, *case.size[1:]),
        strides=(1, *(case.strides or (1, 1, 1))[1:]),
        dilations=(1, *(case.dilations or (1, 1, 1))[1:]),
        pads=None if case.auto_pad else (pads[0], *plane[1:3], pads[1], *plane[4:]),
        auto_pad="SAME_UPPER" if case.auto_pad in ("NOTSET", "VALID") else case.auto_pad,
        dynamic=case.dynamic.replace("N", ""),
        weights="constant",
        bias_from="constant",
    )
    trial = graphs.single(case)
    assert_no_shape_arithmetic(*assert_converted(trial, folder, "winograd"), trial, case)


@every_strategy
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("source", WEIGHT_SOURCES)
def test_weight_sources(tmp_path, source, kernel, strategy):
    opset = max(18, lowest_opset(source))
    for integers in (True, False):
        case = ConvCase(
            weights=source,
            groups=2,
            in_per_group=5,
            out_per_group=8,
            kernel=kernel,
            opset=opset,
            integers=integers,
            pads=(1, 1, 0, 0, 1, 1),
        )
        trial = graphs.single(case)
        assert_no_shape_arithmetic(*assert_converted(trial, tmp_path, strategy), trial, case)


@every_strategy
def test_sparse_initializer(tmp_path, strategy):
    """Not what the checker calls a Conv's weights, yet onnxruntime takes them."""
    trial = graphs.single(ConvCase(pads=(2, 1, 1, 0, 1, 1)))
    graph = trial.model.graph
    (dense,) = (tensor for tensor in graph.initializer if tensor.name == "w")
    graph.sparse_initializer.append(sparse("w", onnx.numpy_helper.to_array(dense)))
    graph.initializer.remove(dense)
    onnx.save(trial.model, tmp_path / "in.onnx")
    result = convert(tmp_path / "in.onnx", tmp_path / "out.onnx", strategy=strategy, validate=False)
    assert result.conv3d_left == 0
    assert_right(onnx.load(tmp_path / "out.onnx"), trial)


@every_strategy
@pytest.mark.parametrize("bias_from", ["initializer", "constant", "input", "computed"])
@pytest.mark.parametrize("head", ["input", "op"])
@pytest.mark.parametrize("tail", ["output", "relu", "both"])
def test_neighbours(tmp_path, bias_from, head, tail, strategy):
    case = ConvCase(bias_from=bias_from, head=head, tail=tail, pads=(2, 1, 1, 0, 1, 1))
    assert_converted(graphs.single(case), tmp_path, strategy)


@every_strategy
def test_empty_name_for_no_bias(tmp_path, strategy):
    trial = graphs.single(ConvCase(bias=False))
    trial.model.graph.node[0].input.append("")
    assert_converted(trial, tmp_path, strategy)


@every_strategy
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_types(tmp_path, dtype, kernel, strategy):
    for integers in (True, False):
        case = ConvCase(dtype=dtype, kernel=kernel, integers=integers, pads=(2, 0, 1, 0, 1, 1))
        assert_converted(graphs.single(case), tmp_path, strategy)


@every_strategy
@pytest.mark.parametrize("kernel", [(2, 3, 3), (3, 1, 1)])
@pytest.mark.parametrize("opset", range(11, NEWEST_OPSET + 1))
def test_opsets(tmp_path, opset, kernel, strategy):
    for dynamic in ("", "NTHW"):
        case = ConvCase(opset=opset, kernel=kernel, pads=(2, 1, 1, 1, 1, 1), dynamic=dynamic)
        assert_converted(graphs.single(case), tmp_path, strategy)


@every_strategy
@pytest.mark.parametrize("opset", range(6, 11))
def test_older_opsets_are_raised(tmp_path, opset, strategy):
    """Slice and Pad take no tensors there."""
    case = ConvCase(opset=opset, head="op", tail="relu", pads=(2, 1, 1, 0, 1, 1))
    trial = graphs.ir_3(case) if opset < 9 else graphs.single(case)
    converted, result = assert_converted(trial, tmp_path, strategy)
    assert (result.opset.before, result.opset.after) == (opset, execute.opset(converted))


def test_an_opset_that_cannot_be_raised_is_refused(tmp_path):
    """Upsample is gone at opset 10, so the graph stays at 9 and its Conv3D with it."""
    trial = graphs.beside_upsample(ConvCase(opset=9))
    converted, result = convert_model(trial.model, tmp_path)
    (entry,) = result.plan.entries
    assert entry.refused
    assert "opset 9" in entry.reason
    assert result.conv3d_left == len(conv3d_left(converted)) == 1
    assert any("Upsample" in note for note in result.notes)
    assert_right(converted, trial)


@every_strategy
def test_ir_version_3(tmp_path, strategy):
    assert_converted(graphs.ir_3(ConvCase(opset=11)), tmp_path, strategy)


@every_strategy
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dynamic", SUBSETS)
def test_open_axes(tmp_path, dynamic, batch, kernel, strategy):
    """With a batch of 1 the new graph computes no sizes, whatever else is open."""
    pads = (1, 0, 2, 3, 1, 0)
    case = ConvCase(batch=batch, dynamic=dynamic, kernel=kernel, strides=(2, 2, 3), pads=pads)
    trial = graphs.single(case)
    assert_no_shape_arithmetic(*assert_converted(trial, tmp_path, strategy), trial, case)


@every_strategy
@pytest.mark.parametrize("kernel", [(2, 4, 2), (1, 3, 3), (4, 1, 1)])
@pytest.mark.parametrize("dynamic", ["", "T", "HW", "NTHW"])
@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 2, 3), (2, 1, 2)])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_auto_pad_same(tmp_path, auto_pad, strides, dynamic, kernel, strategy):
    for dilations, size in ((None, (5, 4, 7)), ((2, 1, 2), (6, 5, 7))):
        case = ConvCase(
            auto_pad=auto_pad,
            strides=strides,
            dilations=dilations,
            size=size,
            kernel=kernel,
            dynamic=dynamic,
        )
        trial = graphs.single(case)
        assert_no_shape_arithmetic(*assert_converted(trial, tmp_path, strategy), trial, case)


@every_strategy
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_auto_pad_valid_and_notset(tmp_path, kernel, strategy):
    for auto_pad, pads in (("VALID", None), ("NOTSET", None), ("NOTSET", (2, 1, 0, 0, 1, 2))):
        case = ConvCase(auto_pad=auto_pad, pads=pads, kernel=kernel, strides=(2, 1, 2))
        assert_converted(graphs.single(case), tmp_path, strategy)


@every_strategy
@pytest.mark.parametrize("name", pad_graphs.PADS)
def test_pads_in_front(tmp_path, name, strategy):
    case = pad_graphs.PADS[name]
    converted, _ = assert_converted(pad_graphs.padded(case), tmp_path, strategy)
    made = {output for node in all_nodes(converted) for output in node.output}
    assert ("padded" in made) != case.vanishes


@every_strategy
@pytest.mark.parametrize("body", nested_graphs.BODIES)
@pytest.mark.parametrize("case", nested_graphs.CASES)
def test_bodies(tmp_path, body, case, strategy):
    trial = nested_graphs.BODIES[body](nested_graphs.CASES[case])
    assert_converted(trial, tmp_path, strategy)


@pytest.mark.parametrize("body", nested_graphs.BODIES)
@pytest.mark.parametrize("opset", [11, 13, 16, 21, NEWEST_OPSET])
def test_bodies_in_other_opsets(tmp_path, opset, body):
    case = replace(nested_graphs.KEEPING, opset=opset)
    assert_converted(nested_graphs.BODIES[body](case), tmp_path)


@every_strategy
@pytest.mark.parametrize("dynamic", ["", "TW", "NTHW"])
@pytest.mark.parametrize("function", function_graphs.FUNCTIONS)
def test_functions(tmp_path, function, dynamic, strategy):
    case = replace(function_graphs.CASE, dynamic=dynamic)
    trial = function_graphs.FUNCTIONS[function](case)
    assert_converted(trial, tmp_path, strategy)


@every_strategy
@pytest.mark.parametrize("names", [("one", "two"), ("", "")])
@pytest.mark.parametrize("source", ["initializer", "constant", "computed", "overridable"])
def test_one_weight_for_two(tmp_path, source, names, strategy):
    first = ConvCase(weights=source)
    second = replace(first, strides=(2, 1, 1), pads=(2, 1, 0, 0, 1, 2), dilations=(1, 2, 1))
    trial = graphs.several(first, second, names)
    _, result = assert_converted(trial, tmp_path, strategy)
    assert len(result.plan.entries) == 2


@every_strategy
def test_lower_ranks_are_left_alone(tmp_path, strategy):
    trial = graphs.chain(ConvCase(), ConvCase(kernel=(2, 1, 2)))
    _, result = assert_converted(trial, tmp_path, strategy)
    assert [entry.node for entry in result.plan.entries] == ["conv1", "conv2"]


def test_nothing_to_do_the_second_time(tmp_path):
    trial = graphs.chain(ConvCase(), ConvCase(kernel=(2, 1, 2)))
    once, first = assert_converted(trial, tmp_path)
    twice, second = convert_model(once, tmp_path)
    assert list(second.plan.entries) == []
    assert_right(twice, trial, rounding(trial, first))


def test_keep(tmp_path):
    trial = graphs.chain(ConvCase(), ConvCase(kernel=(2, 1, 2)))
    converted, result = convert_model(trial.model, tmp_path, "keep")
    assert [entry.strategy for entry in result.plan.entries] == ["keep", "keep"]
    assert result.conv3d_left == len(conv3d_left(converted)) == 2
    assert_right(converted, trial)


def test_a_pin_decides_for_its_nodes_only(tmp_path):
    trial = graphs.chain(ConvCase(), ConvCase())
    converted, result = convert_model(trial.model, tmp_path, "unfold", {"*2": "keep"})
    assert {entry.node: entry.strategy for entry in result.plan.entries} == {
        "conv1": "unfold",
        "conv2": "keep",
    }
    assert conv3d_left(converted) == ["y"]
    assert_right(converted, trial)


POINTWISE = [
    ConvCase(kernel=(1, 3, 3)),
    ConvCase(kernel=(1, 1, 1)),
    ConvCase(kernel=(1, 2, 4), strides=(2, 1, 3), pads=(0, 2, 1, 0, 0, 3)),
    ConvCase(kernel=(1, 3, 3), groups=3, dilations=(3, 1, 2), pads=(0, 1, 2, 0, 1, 2)),
    ConvCase(kernel=(1, 3, 3), pads=(1, 1, 1, 2, 1, 1)),
    ConvCase(kernel=(1, 3, 3), strides=(3, 2, 1), pads=(2, 0, 0, 1, 0, 0)),
    ConvCase(kernel=(1, 3, 3), auto_pad="SAME_LOWER", strides=(2, 2, 2)),
    ConvCase(kernel=(1, 3, 3), bias=False, in_per_group=1, groups=4),
]
TEMPORAL = [
    ConvCase(kernel=(3, 1, 1)),
    ConvCase(kernel=(1, 1, 1)),
    ConvCase(kernel=(3, 1, 1), pads=(2, 0, 0, 0, 0, 0)),
    ConvCase(kernel=(4, 1, 1), strides=(2, 1, 1), pads=(3, 0, 0, 1, 0, 0)),
    ConvCase(kernel=(2, 1, 1), dilations=(3, 2, 2), groups=2),
    ConvCase(kernel=(3, 1, 1), auto_pad="SAME_UPPER", strides=(2, 1, 1)),
    ConvCase(kernel=(4, 1, 1), auto_pad="SAME_LOWER", dilations=(1, 2, 1)),
    ConvCase(kernel=(4, 1, 1), auto_pad="SAME_LOWER", strides=(2, 1, 1)),
    ConvCase(kernel=(3, 1, 1), bias=False, in_per_group=1, groups=4),
]
PINNED = [
    *(("pointwise", case) for case in POINTWISE),
    *(("temporal", case) for case in TEMPORAL),
]


@pytest.mark.parametrize(("strategy", "case"), PINNED)
@pytest.mark.parametrize("dynamic", ["", "THW", "NTHW"])
@pytest.mark.parametrize("batch", [1, 2])
def test_pinned(tmp_path, strategy, case, dynamic, batch):
    case = replace(case, dynamic=dynamic, batch=batch)
    trial = graphs.single(case)
    converted, result = assert_converted(trial, tmp_path, "keep", {"conv": strategy})
    assert [entry.strategy for entry in result.plan.entries] == [strategy]
    assert_no_shape_arithmetic(converted, result, trial, case)


REFUSED = [
    ("pointwise", ConvCase(kernel=(2, 3, 3))),
    ("pointwise", ConvCase(kernel=(3, 1, 1))),
    ("temporal", ConvCase(kernel=(3, 1, 2))),
    ("temporal", ConvCase(kernel=(1, 3, 3))),
    ("temporal", ConvCase(kernel=(3, 2, 1))),
    # Legal, but no plain Conv2D over (T, H*W).
    ("temporal", ConvCase(kernel=(3, 1, 1), strides=(1, 1, 2))),
    ("temporal", ConvCase(kernel=(3, 1, 1), pads=(0, 0, 0, 0, 1, 0))),
    ("temporal", ConvCase(kernel=(3, 1, 1), auto_pad="SAME_UPPER", strides=(1, 2, 1))),
]


@pytest.mark.parametrize(("strategy", "case"), REFUSED)
def test_a_pin_that_cannot_hold_is_refused(tmp_path, strategy, case):
    trial = graphs.single(case)
    converted, result = convert_model(trial.model, tmp_path, pins={"conv": strategy})
    (entry,) = result.plan.entries
    assert entry.refused
    assert (entry.node, entry.strategy) == ("conv", "keep")
    assert entry.reason
    assert result.conv3d_left == len(conv3d_left(converted)) == 1
    assert_right(converted, trial)


@pytest.mark.parametrize("case", [case for _, case in REFUSED])
def test_auto_takes_what_a_pin_cannot_have(tmp_path, case):
    assert_converted(graphs.single(case), tmp_path)


@every_strategy
@pytest.mark.parametrize("rank_known", [True, False])
@pytest.mark.parametrize("states_kernel", [True, False])
@pytest.mark.parametrize("of", ["x", "w", "xw"])
@pytest.mark.parametrize("groups", [1, 2])
def test_hidden_shapes_are_right_or_refused(
    tmp_path, groups, of, states_kernel, rank_known, strategy
):
    case = ConvCase(states_kernel=states_kernel, groups=groups, pads=(2, 1, 1, 0, 1, 1))
    trial = graphs.unknown_shape(case, of=of, rank_known=rank_known)
    converted, result = convert_model(trial.model, tmp_path, strategy)
    assert_right(converted, trial)
    (entry,) = result.plan.entries
    assert entry.refused == bool(result.conv3d_left)
    assert entry.reason


def test_the_longer_name_of_the_standard_domain(tmp_path):
    trial = graphs.single(ConvCase())
    trial.model.opset_import[0].domain = "ai.onnx"
    assert_converted(trial, tmp_path)


def test_a_conv_of_another_domain_is_left_alone(tmp_path):
    trial = graphs.single(ConvCase())
    (node,) = trial.model.graph.node
    node.domain = "elsewhere"
    trial.model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    converted, result = convert_model(trial.model, tmp_path)
    assert list(result.plan.entries) == []
    assert list(converted.graph.node) == [node]
    np.testing.assert_array_equal(
        *(onnx.numpy_helper.to_array(m.graph.initializer[0]) for m in (converted, trial.model))
    )
