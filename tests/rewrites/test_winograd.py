"""The winograd strategy against a float64 convolution that shares no code with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import convert
from converter.rewrites import cook_toom
from converter.rewrites.tiling import Segment
from converter.rewrites.winograd import data_matrix, output_matrix
from tests.oracle import conv as convolve

C, O, H, W = 4, 6, 5, 7  # noqa: E741
RNG = np.random.default_rng(11)
# F(8, 3) loses a factor of about ten against a direct fp32 product (tiling.RELATIVE_ERROR).
RELATIVE = 1e-5


def model(
    frames: int | str,
    *,
    pads: tuple[int, ...],
    group: int = 1,
    plane: tuple = (H, W),
    **changes: object,
) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    kernel = changes.pop("kernel", (3, 3, 3))
    weight = RNG.standard_normal((O, C // group, *kernel)).astype(np.float32)
    bias = RNG.standard_normal(O).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], name="conv", group=group, pads=list(pads), **changes
    )
    graph = helper.make_graph(
        [node],
        "winograd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, C, frames, *plane])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, O, "t", "h", "w"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return proto, weight, bias


def converted(proto: onnx.ModelProto, folder: Path, strategy: str = "winograd"):
    onnx.save(proto, folder / "in.onnx")
    target = folder / "out.onnx"
    return convert(folder / "in.onnx", target, strategy=strategy, validate=False), target


PADS = [(2, 1, 1, 0, 1, 1), (1, 0, 2, 1, 1, 0), (0, 1, 1, 0, 1, 1)]
TWO_OUTPUT_FRAMES = [
    (frames, pads)
    for frames in (2, 3, 4, 5, 8, 9, 13, 17)
    for pads in PADS
    if frames + pads[0] + pads[3] - 2 >= 2
]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("frames", "pads"), TWO_OUTPUT_FRAMES)
def test_equals_the_convolution(
    frames: int, pads: tuple[int, ...], group: int, tmp_path: Path
) -> None:
    proto, weight, bias = model(frames, pads=pads, group=group)
    result, target = converted(proto, tmp_path)
    assert result.plan.entries[0].strategy == "winograd"
    assert result.conv3d_left == 0
    x = RNG.standard_normal((1, C, frames, H, W)).astype(np.float32)
    (y,) = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = convolve(x, weight, bias, pads=pads, group=group)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize("strategy", ["winograd", "winograd2"])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("frames", "dilation", "pads"),
    [
        (8, 2, (4, 1, 1, 0, 1, 1)),
        (9, 2, (2, 1, 1, 2, 1, 1)),
        (11, 3, (6, 0, 1, 0, 1, 1)),
        (7, 3, (3, 1, 1, 1, 1, 1)),
        (12, 2, (0, 1, 1, 0, 1, 1)),
        (3, 5, (9, 1, 1, 0, 1, 1)),  # fewer output frames than phases
        (6, 2, (1, 1, 1, 9, 1, 1)),  # more zeros behind than a tile reads
    ],
)
def test_dilated_in_time(frames, dilation, pads, group, strategy, tmp_path: Path) -> None:
    """The phases are one Conv2D, and no frame is moved by a node of its own."""
    proto, weight, bias = model(frames, pads=pads, group=group, dilations=[dilation, 1, 1])
    result, target = converted(proto, tmp_path, strategy)
    assert result.plan.entries[0].strategy == strategy
    counts = Counter(node.op_type for node in onnx.load(target).graph.node)
    assert counts["Conv"] == 1
    assert counts["Slice"] == counts["Gather"] == counts["Pad"] == counts["Concat"] == 0
    x = RNG.standard_normal((1, C, frames, H, W)).astype(np.float32)
    (y,) = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = convolve(x, weight, bias, pads=pads, group=group, dilations=(dilation, 1, 1))
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()


def test_dilation_with_open_frames_is_refused(tmp_path: Path) -> None:
    proto, _, _ = model("T", pads=(4, 1, 1, 0, 1, 1), dilations=[2, 1, 1])
    (entry,) = converted(proto, tmp_path)[0].plan.entries
    assert entry.refused
    assert entry.reason == "winograd needs a static T where dilation in time is not 1"


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("plane", [(H, W), ("H", "W"), ("H", W)])
@pytest.mark.parametrize("pads", PADS)
def test_dynamic_frames(pads: tuple, plane: tuple, group: int, tmp_path: Path) -> None:
    """Windows: one graph is right for every number of frames, one output frame included."""
    proto, weight, bias = model("T", pads=pads, plane=plane, group=group)
    result, target = converted(proto, tmp_path)
    assert result.plan.entries[0].strategy == "winograd"
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    for frames in range(3, 12):
        x = RNG.standard_normal((1, C, frames, H, W)).astype(np.float32)
        (y,) = session.run(None, {"x": x})
        expected = convolve(x, weight, bias, pads=pads, group=group)
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize("plane", [("H", "W"), ("H", W)])
def test_dynamic_planes(plane: tuple, tmp_path: Path) -> None:
    pads = (2, 1, 1, 0, 1, 1)
    proto, weight, bias = model(4, pads=pads, plane=plane)
    _, target = converted(proto, tmp_path)
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    for rows in (5, 8):
        x = RNG.standard_normal((1, C, 4, rows, W)).astype(np.float32)
        (y,) = session.run(None, {"x": x})
        expected = convolve(x, weight, bias, pads=pads)
        assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize(
    ("strategy", "groups"),
    [("winograd", [10]), ("winograd6", [6]), ("winograd4", [6]), ("winograd2", [4])],
)
def test_smaller_tiles(strategy: str, groups: list[int], tmp_path: Path) -> None:
    """8 frames: one tile of 10 products, two of 6, or four of 4; the smaller, the more exact."""
    pads = (2, 1, 1, 0, 1, 1)
    proto, weight, bias = model(8, pads=pads)
    result, target = converted(proto, tmp_path, strategy)
    assert result.plan.entries[0].strategy == strategy
    convs = [node for node in onnx.load(target).graph.node if node.op_type == "Conv"]
    assert [a.i for conv in convs for a in conv.attribute if a.name == "group"] == groups
    x = RNG.standard_normal((1, C, 8, H, W)).astype(np.float32)
    (y,) = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = convolve(x, weight, bias, pads=pads)
    assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize(("strategy", "refused"), [("winograd4", False), ("winograd2", True)])
def test_smaller_tiles_where_frames_are_open(strategy: str, refused: bool, tmp_path: Path) -> None:
    """The form by windows has tiles of 4 frames and no others."""
    proto, _, _ = model("T", pads=(2, 1, 1, 0, 1, 1))
    (entry,) = converted(proto, tmp_path, strategy)[0].plan.entries
    assert entry.refused == refused
    assert not refused or entry.reason == "winograd2 needs a static T"


def test_fewer_products_and_no_pad(tmp_path: Path) -> None:
    """Eight frames are one tile of ten products, in one Conv2D; time padding takes no node."""
    proto, _, _ = model(8, pads=(2, 1, 1, 0, 1, 1))
    _, target = converted(proto, tmp_path)
    nodes = onnx.load(target).graph.node
    counts = Counter(node.op_type for node in nodes)
    assert counts["Conv"] == 1
    assert counts["Pad"] == counts["Slice"] == 0
    (conv,) = [node for node in nodes if node.op_type == "Conv"]
    assert {a.name: a for a in conv.attribute}["group"].i == 10


def test_weights_are_transformed_in_float64_and_stored_so(tmp_path: Path) -> None:
    """Nine frames are a tile of 5 and one of 4; nothing is left for a runtime to compute."""
    proto, weight, _ = model(9, pads=(2, 1, 1, 0, 1, 1))
    _, target = converted(proto, tmp_path)
    graph = onnx.load(target).graph
    stored = [numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 4]
    for values, m in zip(stored, (5, 4), strict=True):
        exact = np.einsum("jk,ockhw->jochw", cook_toom.matrices(m).g, weight.astype(np.float64))
        np.testing.assert_allclose(values.ravel(), exact.ravel(), rtol=1.2e-7, atol=1e-9)
    constants = {t.name for t in graph.initializer}
    assert not [node.name for node in graph.node if set(node.input) <= constants]


@pytest.mark.parametrize("strategy", ["winograd", "winograd2d"])
def test_narrow_weights_stay_narrow_in_one_form(strategy: str, tmp_path: Path) -> None:
    """So that the graphs of a stream may take one strategy each and still share their weights."""
    proto, weight, _ = model(8, pads=(2, 1, 1, 0, 1, 1))
    narrow = weight.astype(np.float16)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(narrow, "w16"))
    proto.graph.node.insert(0, helper.make_node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT))
    _, target = converted(proto, tmp_path, strategy)
    held = [t for t in onnx.load(target).graph.initializer if t.data_type == TensorProto.FLOAT16]
    (stored,) = map(numpy_helper.to_array, held)
    np.testing.assert_array_equal(stored, narrow.transpose(2, 0, 1, 3, 4).reshape(3, -1))


REFUSALS = {
    "stride": ({"strides": [2, 1, 1]}, "stride"),
    "two taps": ({"kernel": (2, 3, 3)}, "3 taps"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str, tmp_path: Path) -> None:
    changes, word = REFUSALS[name]
    proto, _, _ = model(8, pads=(2, 1, 1, 0, 1, 1), **dict(changes))
    result, _ = converted(proto, tmp_path)
    (entry,) = result.plan.entries
    assert entry.refused
    assert entry.strategy == "keep"
    assert word in entry.reason


@pytest.mark.parametrize(
    ("dims", "word"),
    [((2, 8), "batch"), (("N", 8), "batch"), ((1, 1), "frames")],
)
def test_refuses_unknown_or_small_sizes(dims: tuple, word: str, tmp_path: Path) -> None:
    proto, _, _ = model(8, pads=(2, 1, 1, 0, 1, 1))
    for axis, dim in zip((0, 2), dims, strict=True):
        shape = proto.graph.input[0].type.tensor_type.shape.dim[axis]
        if isinstance(dim, int):
            shape.dim_value = dim
        else:
            shape.dim_param = dim
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    result, _ = converted(proto, tmp_path)
    (entry,) = result.plan.entries
    assert entry.refused
    assert word in entry.reason


def test_a_run_reads_only_the_frames_it_needs() -> None:
    """Two tiles of 4 from output frame 0, behind 2 frames of zeros: input frames 0 to 7 of 9."""
    d, low, high = data_matrix(Segment(m=4, tiles=2, first=0, frames=8), (2, 0), t=9)
    assert (low, high) == (0, 8)
    assert d.shape == (12, 8)
    # A result of ones everywhere on a kernel of one tap at the end is the input itself.
    a = output_matrix(Segment(m=4, tiles=2, first=0, frames=8))
    assert a.shape == (8, 12)


@pytest.mark.parametrize("stated", [None, ["O", "C", 3, 3, 3], [O, C, 3, 3, 3]])
def test_weights_behind_a_cast_need_a_stated_shape(
    stated: list | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ONNX infers nothing, a stated kernel alone does not say how many channels there are."""

    def give_up(*_: object, **__: object) -> None:
        raise onnx.shape_inference.InferenceError("planted")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", give_up)
    proto, weight, bias = model(8, pads=(2, 1, 1, 0, 1, 1), kernel_shape=[3, 3, 3])
    graph = proto.graph
    graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.astype(np.float16), "w16"))
    graph.node.insert(0, helper.make_node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT))
    if stated:
        graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, stated))
    result, target = converted(proto, tmp_path)
    (entry,) = result.plan.entries
    known = stated is not None and isinstance(stated[0], int)
    assert entry.strategy == ("winograd" if known else "keep")
    assert known or entry.reason == "winograd needs weights whose channels are known"
    x = RNG.standard_normal((1, C, 8, H, W)).astype(np.float32)
    (y,) = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = convolve(x, weight.astype(np.float16), bias, pads=(2, 1, 1, 0, 1, 1))
    assert np.abs(y - expected).max() <= RELATIVE * np.abs(expected).max()
