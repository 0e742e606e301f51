"""The strategy `winograd2d` against a float64 convolution that shares no code with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.rewrites import cook_toom
from converter.rewrites.winograd2d import LOSS, row_matrix
from tests import graphs
from tests.judge import assert_converted, assert_no_shape_arithmetic
from tests.oracle import conv as convolve
from tests.random_cases import conv_cases
from tests.rewrites.test_winograd import RNG, C, converted, model

# F(8, 3) in time loses a factor of about ten against a direct fp32 product, F(4, 3) in rows two.
RELATIVE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("frames", [2, 5, 9, 17])
@pytest.mark.parametrize(
    ("rows", "pads"),
    [(8, (2, 1, 1, 0, 1, 1)), (7, (1, 0, 2, 1, 1, 0)), (5, (0, 2, 1, 2, 2, 1)), (4, (2, 0, 0) * 2)],
)
def test_equals_the_convolution(
    rows: int, pads: tuple[int, ...], frames: int, group: int, tmp_path: Path
) -> None:
    """Rows that fill the last tile and rows that do not, padded on either side, or not at all."""
    proto, weight, bias = model(frames, pads=pads, group=group, plane=(rows, 7))
    result, target = converted(proto, tmp_path, "winograd2d")
    assert result.plan.entries[0].strategy == "winograd2d"
    x = RNG.standard_normal((1, C, frames, rows, 7)).astype(np.float32)
    (y,) = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = convolve(x, weight, bias, pads=pads, group=group)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()


@settings(max_examples=60)
@given(
    case=conv_cases(),
    frames=st.integers(1, 12),
    rows=st.integers(1, 10),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_random_graphs(folder, case, frames, rows, pads):
    """Any attribute along W; any length and padding in T and H that leave two of each."""
    plane = case.pads or (0,) * 6
    begin, end, top, bottom = pads
    case = replace(
        case,
        batch=1,
        kernel=(3, 3, case.kernel[2]),
        size=(max(frames, 4 - begin - end), max(rows, 4 - top - bottom), case.size[2]),
        strides=(1, 1, (case.strides or (1, 1, 1))[2]),
        dilations=(1, 1, (case.dilations or (1, 1, 1))[2]),
        pads=(begin, top, plane[2], end, bottom, plane[5]),
        auto_pad=None,
        dtype="float32" if case.dtype == "float16" else case.dtype,
        dynamic="",
        weights="constant",
    )
    if case.size[2] + plane[2] + plane[5] < (case.kernel[2] - 1) * case.dilations[2] + 1:
        case = replace(case, size=(*case.size[:2], 20))
    trial = graphs.single(case)
    assert_no_shape_arithmetic(*assert_converted(trial, folder, "winograd2d"), trial, case)


def test_one_conv_along_w_of_a_group_for_each_product(tmp_path: Path) -> None:
    """Eight frames are one tile of 10 products, eight rows two of 6; padding takes no node."""
    proto, _, _ = model(8, pads=(2, 1, 1, 0, 1, 1), plane=(8, 6))
    _, target = converted(proto, tmp_path, "winograd2d")
    nodes = onnx.load(target).graph.node
    counts = Counter(node.op_type for node in nodes)
    assert counts["Conv"] == 1
    assert counts["Pad"] == counts["Slice"] == 0
    (conv,) = [node for node in nodes if node.op_type == "Conv"]
    attributes = {a.name: a for a in conv.attribute}
    assert attributes["group"].i == 60
    assert list(attributes["kernel_shape"].ints) == [1, 3]


def test_weights_are_transformed_in_float64_and_stored_so(tmp_path: Path) -> None:
    """(J*K*O, C/g, 1, Kw), where J products are of F(8, 3) in time and K of F(4, 3) in rows."""
    proto, weight, _ = model(8, pads=(2, 1, 1, 0, 1, 1), plane=(8, 6))
    _, target = converted(proto, tmp_path, "winograd2d")
    held = [t for t in onnx.load(target).graph.initializer if len(t.dims) == 4]
    (stored,) = map(onnx.numpy_helper.to_array, held)
    in_time, in_rows = cook_toom.matrices(8).g, cook_toom.matrices(4).g
    exact = np.einsum("jt,kr,octrw->jkocw", in_time, in_rows, weight.astype(np.float64))
    np.testing.assert_allclose(stored.ravel(), exact.ravel(), rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_it_loses_as_much_again_as_winograd(frames: int, tmp_path: Path) -> None:
    """What the budget of accuracy counts with, within a fifth; sums differ by processor."""
    pads = (0, 1, 1, 0, 1, 1)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 64, frames + 2, 12, 12)).astype(np.float32)
    weight = rng.standard_normal((32, 64, 3, 3, 3)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=pads)
    described = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 32, frames, 12, 12)),
    ]
    held = [onnx.numpy_helper.from_array(weight, "w")]
    graph = onnx.helper.make_graph([node], "layer", described[:1], described[1:], held)
    opset = [onnx.helper.make_opsetid("", 18)]
    proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    expected = convolve(x, weight, None, pads=pads, group=1)
    errors = []
    for strategy in ("winograd", "winograd2d"):
        _, target = converted(proto, tmp_path, strategy)
        session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": x})
        errors.append(np.linalg.norm(y - expected))
        target.unlink()
    assert errors[1] / errors[0] == pytest.approx(LOSS, rel=0.2)


def test_rows_of_zeros_are_left_out_of_the_matrix() -> None:
    """B^T of F(4, 3) is applied by rows; those for padding above and below are not there."""
    matrix = row_matrix(8, (1, 1), 8)
    assert matrix.shape == (12, 8)
    padded = row_matrix(8, (0, 0), 10)
    np.testing.assert_array_equal(matrix, padded[:, 1:-1])
    # The two tiles lie behind each other for each product, four rows apart.
    np.testing.assert_array_equal(padded[0::2, :6], padded[1::2, 4:])
    assert not padded[0::2, 6:].any()
    assert not padded[1::2, :4].any()


REFUSALS = {
    "stride in time": ({"strides": [2, 1, 1]}, "stride"),
    "dilation in time": ({"dilations": [2, 1, 1]}, "dilation 1 in time"),
    "stride in rows": ({"strides": [1, 2, 1]}, "stride 1 and dilation 1 in H"),
    "dilation in rows": ({"dilations": [1, 2, 1]}, "stride 1 and dilation 1 in H"),
    "two rows": ({"kernel": (3, 2, 3)}, "3 rows"),
    "open rows": ({"plane": ("H", 7)}, "known sizes"),
    "open columns": ({"plane": (8, "W")}, "known sizes"),
    "one row": ({"plane": (1, 7)}, "2 or more rows"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str, tmp_path: Path) -> None:
    changes, words = REFUSALS[name]
    proto, _, _ = model(8, pads=(2, 1, 1, 0, 1, 1), **({"plane": (8, 7)} | changes))
    result, _ = converted(proto, tmp_path, "winograd2d")
    (entry,) = result.plan.entries
    assert entry.refused
    assert entry.strategy == "keep"
    assert entry.reason.startswith("winograd2d ")
    assert words in entry.reason
