from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests import function_graphs, graphs, nested_graphs, oracle, pad_graphs
from tests.conv_case import ConvCase, Trial
from tests.execute import assert_right, conv3d_left
from tests.random_cases import conv_cases
from tests.weight_sources import WEIGHT_SOURCES, lowest_opset

torch = pytest.importorskip("torch")

TORCH_TABLE = [
    # kernel, strides, dilations, (t0, h0, w0, t1, h1, w1), groups
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (0, 0, 0, 0, 0, 0), 1),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (2, 1, 1, 0, 1, 1), 1),
    ((2, 3, 4), (1, 2, 3), (1, 1, 1), (1, 0, 2, 3, 1, 0), 1),
    ((4, 2, 5), (3, 1, 2), (2, 3, 1), (0, 3, 1, 2, 0, 3), 1),
    ((1, 1, 1), (2, 2, 2), (1, 1, 1), (0, 0, 0, 0, 0, 0), 2),
    ((3, 1, 1), (1, 1, 1), (3, 1, 1), (3, 0, 0, 3, 0, 0), 2),
    ((1, 3, 3), (1, 2, 2), (1, 2, 2), (0, 2, 1, 0, 1, 2), 3),
    ((3, 2, 3), (2, 1, 2), (1, 2, 1), (1, 1, 1, 1, 1, 1), 6),
    ((7, 6, 5), (1, 1, 1), (1, 1, 1), (3, 3, 2, 3, 2, 2), 1),
]


@pytest.mark.parametrize(("kernel", "strides", "dilations", "pads", "groups"), TORCH_TABLE)
@pytest.mark.parametrize("bias", [True, False])
def test_conv_equals_torch(kernel, strides, dilations, pads, groups, bias):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 7, 8, 9))
    w = rng.standard_normal((12, 6 // groups, *kernel))
    b = rng.standard_normal(12) if bias else None
    # torch pads the last axis first.
    flat = [pads[i + 3 * end] for i in (2, 1, 0) for end in (0, 1)]
    wanted = torch.nn.functional.conv3d(
        torch.nn.functional.pad(torch.from_numpy(x), flat),
        torch.from_numpy(w),
        None if b is None else torch.from_numpy(b),
        stride=strides,
        dilation=dilations,
        groups=groups,
    ).numpy()
    got = oracle.conv(x, w, b, strides=strides, dilations=dilations, pads=pads, group=groups)
    # Two orders of at most 420 float64 products of size about 1: 420 * 2**-53 * 420 at worst.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-11)


def test_conv_equals_the_cases_of_onnx(monkeypatch):
    from onnx.backend.test.case.node import conv as module

    cases = {}

    def expect(node, inputs, outputs, name):
        cases[name] = (node, inputs, outputs)

    # Importing every operator's cases, as onnx's own collector does, takes ten seconds.
    monkeypatch.setattr(module, "expect", expect)
    for export in (name for name in dir(module.Conv) if name.startswith("export")):
        getattr(module.Conv, export)()
    assert {
        "test_basic_conv_with_padding",
        "test_basic_conv_without_padding",
        "test_conv_with_strides_padding",
        "test_conv_with_strides_and_asymmetric_padding",
        "test_conv_with_autopad_same",
    } <= cases.keys()
    for name, (node, inputs, outputs) in cases.items():
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if "auto_pad" in attributes:
            attributes["auto_pad"] = attributes["auto_pad"].decode()
        # These cases are whole numbers.
        np.testing.assert_array_equal(oracle.conv(*inputs, **attributes), outputs[0], name)


@pytest.mark.parametrize(
    ("auto_pad", "size", "kernel", "stride", "dilation", "begin", "end"),
    [
        # The output has ceil(size / stride) elements; the last span begins at
        # (output - 1) * stride, and what it needs beyond the input is the padding.
        ("SAME_UPPER", 5, 2, 1, 1, 0, 1),
        ("SAME_LOWER", 5, 2, 1, 1, 1, 0),
        ("SAME_UPPER", 5, 4, 2, 1, 1, 2),
        ("SAME_LOWER", 5, 4, 2, 1, 2, 1),
        ("SAME_UPPER", 6, 3, 2, 1, 0, 1),
        ("SAME_LOWER", 6, 3, 2, 2, 2, 1),
        ("SAME_UPPER", 5, 1, 3, 1, 0, 0),
        ("VALID", 5, 3, 2, 1, 0, 0),
    ],
)
def test_pads_of_auto_pad(auto_pad, size, kernel, stride, dilation, begin, end):
    span = (kernel - 1) * dilation + 1
    assert oracle.begin_end_pads([size], [span], [stride], None, auto_pad) == ([begin], [end])


@pytest.mark.parametrize(
    ("x", "w", "attributes", "said"),
    [
        ((1, 4, 5), (2, 3, 2), {}, "do not fit"),
        ((1, 4, 5), (3, 2, 2), {"group": 2}, "do not fit"),
        ((1, 4, 5), (2, 4, 2), {"kernel_shape": [3]}, "kernel_shape"),
        ((1, 4, 5), (2, 4, 6), {}, "empty"),
        ((1, 4, 5), (2, 4, 2), {"auto_pad": "SAME"}, "unknown auto_pad"),
    ],
)
def test_conv_rejects_what_is_not_defined(x, w, attributes, said):
    with pytest.raises(ValueError, match=said):
        oracle.conv(np.zeros(x), np.zeros(w), **attributes)


@settings(max_examples=150)
@given(conv_cases())
def test_original_graphs_give_the_answers_of_the_oracle(case):
    """The random graphs before any conversion, on onnxruntime or the reference evaluator."""
    trial = graphs.single(case)
    _assert_valid(trial)


@settings(max_examples=100)
@given(conv_cases())
def test_reference_evaluator_gives_the_answers_of_the_oracle(case):
    """It judges float64 and new opsets, so its Conv is compared too, in every type."""
    trial = graphs.single(replace(case, dtype="float64", weights="initializer"))
    for run in trial.runs:
        got = ReferenceEvaluator(trial.model).run(list(run.answers), dict(run.feed))
        for value, answer in zip(got, run.answers.values(), strict=True):
            assert value.shape == answer.value.shape
            assert (np.abs(value - answer.value) <= answer.tolerance).all()


@pytest.mark.parametrize("source", WEIGHT_SOURCES)
@pytest.mark.parametrize("integers", [True, False])
def test_weight_sources_are_right_before_conversion(source, integers):
    opset = max(18, lowest_opset(source))
    _assert_valid(graphs.single(ConvCase(weights=source, integers=integers, opset=opset)))


def test_a_sparse_constant_is_right_where_the_reference_evaluator_runs_it():
    _assert_valid(graphs.single(ConvCase(weights="sparse_constant", dtype="float64")))


@pytest.mark.parametrize("name", pad_graphs.PADS)
def test_pads_are_right_before_conversion(name):
    _assert_valid(pad_graphs.padded(pad_graphs.PADS[name]))


@pytest.mark.parametrize("body", nested_graphs.BODIES)
@pytest.mark.parametrize("case", nested_graphs.CASES)
def test_bodies_are_right_before_conversion(body, case):
    _assert_valid(nested_graphs.BODIES[body](nested_graphs.CASES[case]))


@pytest.mark.parametrize("function", function_graphs.FUNCTIONS)
@pytest.mark.parametrize("dynamic", ["", "TW", "NTHW"])
def test_functions_are_right_before_conversion(function, dynamic):
    case = replace(function_graphs.CASE, dynamic=dynamic)
    _assert_valid(function_graphs.FUNCTIONS[function](case))


def _assert_valid(trial: Trial) -> None:
    onnx.checker.check_model(trial.model, full_check=True)
    assert conv3d_left(trial.model)
    assert_right(trial.model, trial)
