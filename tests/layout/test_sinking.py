"""Frame-major layout: graph in, graph out, numbers equal, transposes gone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import convert

OPSET = 18
C, T, H, W = 4, 5, 6, 7
RNG = np.random.default_rng(7)
# One fp32 Conv after another: 1e-5 of outputs of order 10 covers a reordering of 108 products.
TOLERANCE = 1e-5


def constant(name: str, values: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def conv(x: str, y: str, inputs: int = C, outputs: int = C, **attributes: object) -> tuple:
    weight = RNG.standard_normal((outputs, inputs, 3, 3, 3)).astype(np.float32) / 5
    attributes = {"pads": [2, 1, 1, 0, 1, 1], **attributes}
    node = helper.make_node("Conv", [x, f"{y}.w"], [y], name=y, **attributes)
    return node, constant(f"{y}.w", weight)


def between(
    nodes: list, constants: list, *, n: int | str, sizes: tuple, channels: int = C, last: str = "b"
) -> onnx.ModelProto:
    """x -> Conv -> a -> nodes -> b -> Conv -> y."""
    first, first_weight = conv("x", "a")
    second, second_weight = conv(last, "y", inputs=channels)
    graph = helper.make_graph(
        [first, *nodes, second],
        "between",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, C, *sizes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [n, C, None, None, None])],
        [first_weight, second_weight, *constants],
    )
    for dim in graph.output[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = f"out{len(dim.dim_param)}{id(dim) % 97}"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def ops(path: Path) -> Counter:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def convert_and_compare(
    model: onnx.ModelProto, folder: Path, n: int = 1, strategy: str = "unfold"
) -> Counter:
    source, target = folder / "in.onnx", folder / "out.onnx"
    onnx.save(model, source)
    result = convert(source, target, strategy=strategy, validate=False)
    assert result.conv3d_left == 0
    onnx.checker.check_model(str(target), full_check=True)
    x = RNG.standard_normal((n, C, T, H, W)).astype(np.float32)
    for expected, actual in zip(run(source, x), run(target, x), strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max()
        )
    return ops(target)


def node(op: str, inputs: list[str], output: str = "b", **attributes: object):
    return helper.make_node(op, inputs, [output], **attributes)


def i64(name: str, values: list[int]) -> TensorProto:
    return constant(name, values, np.int64)


# (what stands between two Convs, its constants); every one must let the layout through.
PASSES = {
    "sigmoid": ([node("Sigmoid", ["a"])], []),
    "clip": ([node("Clip", ["a", "", "top"])], [constant("top", 1.5)]),
    "cast there and back": (
        [
            node("Cast", ["a"], "h", to=TensorProto.DOUBLE),
            node("Cast", ["h"], to=TensorProto.FLOAT),
        ],
        [],
    ),
    "scale by channel": (
        [node("Mul", ["a", "g"])],
        [constant("g", RNG.standard_normal((C, 1, 1, 1)))],
    ),
    "scale by frame, row, column": (
        [node("Mul", ["a", "t"], "h"), node("Add", ["h", "hw"])],
        [
            constant("t", RNG.standard_normal((1, 1, T, 1, 1))),
            constant("hw", RNG.standard_normal((H, W))),
        ],
    ),
    "scale by everything": (
        [node("Mul", ["a", "all"])],
        [constant("all", RNG.standard_normal((1, C, T, H, W)))],
    ),
    "scalar of rank 5": ([node("Mul", ["a", "s"])], [constant("s", np.full((1,) * 5, 0.5))]),
    "residual sum": ([node("Relu", ["a"], "r"), node("Add", ["r", "a"])], []),
    "rms norm": (
        [
            node("ReduceL2", ["a", "axes"], "n", keepdims=1),
            node("Expand", ["n", "shape"], "e"),
            node("Div", ["a", "e"]),
        ],
        [i64("axes", [1]), i64("shape", [1, C, T, H, W])],
    ),
    "mean over channels, negative axis": (
        [node("ReduceMean", ["a", "axes"], "n", keepdims=1), node("Sub", ["a", "n"])],
        [i64("axes", [-4])],
    ),
    "softmax over channels": ([node("Softmax", ["a"], axis=1)], []),
    "softmax over columns": ([node("Softmax", ["a"])], []),
    "concat of frames": ([node("Concat", ["a", "a"], axis=2)], []),
    "concat of channels": ([node("Concat", ["a", "a"], axis=-4)], []),
    "slice of frames": (
        [node("Slice", ["a", "s", "e", "ax"])],
        [i64("s", [1]), i64("e", [2**62]), i64("ax", [2])],
    ),
    "slice of rows, backwards": (
        [node("Slice", ["a", "s", "e", "ax", "st"])],
        [i64("s", [-1, 0]), i64("e", [-(2**62), 3]), i64("ax", [-2, 1]), i64("st", [-1, 1])],
    ),
    "gather of frames": ([node("Gather", ["a", "i"], axis=2)], [i64("i", [0, 0, 1, 2])]),
    "split": (
        [
            helper.make_node("Split", ["a"], ["p", "q"], axis=1, num_outputs=2),
            node("Concat", ["q", "p"], axis=1),
        ],
        [],
    ),
    "edge pad": (
        [node("Pad", ["a", "p"], mode="edge")],
        [i64("p", [0, 0, 1, 2, 0, 0, 0, 0, 0, 3])],
    ),
    "pad by axes": (
        [node("Pad", ["a", "p", "v", "ax"])],
        [i64("p", [1, 0]), constant("v", 0.5), i64("ax", [2])],
    ),
    "nearest resize": (
        [
            node(
                "Resize",
                ["a", "", "k"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        [constant("k", [1, 1, 1, 2, 2])],
    ),
    "axes of size 1 that come and go, in any order, counted from either end": (
        [
            node("Unsqueeze", ["a", "new"], "u"),
            node("Neg", ["u"], "k"),
            node("Squeeze", ["k", "gone"]),
        ],
        [i64("new", [3, -6]), i64("gone", [-6, 3])],
    ),
    "swap there and back": (
        [
            node("Transpose", ["a"], "h", perm=[0, 2, 1, 3, 4]),
            node("Neg", ["h"], "k"),
            node("Transpose", ["k"], perm=[0, 2, 1, 3, 4]),
        ],
        [],
    ),
}


def channels_after(name: str) -> int:
    return {"concat of channels": 2 * C, "slice of rows, backwards": 3}.get(name, C)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", PASSES)
def test_only_the_ends_are_transposed(name: str, n: int, tmp_path: Path) -> None:
    nodes, constants = PASSES[name]
    if name == "rms norm" and n != 1:
        constants = [constants[0], i64("shape", [n, C, T, H, W])]
    if name == "scale by everything" and n != 1:
        constants = [constant("all", RNG.standard_normal((n, C, T, H, W)))]
    model = between(nodes, constants, n=n, sizes=(T, H, W), channels=channels_after(name))
    counts = convert_and_compare(model, tmp_path, n)
    assert counts["Transpose"] == 2
    assert counts["Expand"] == 0
    if n == 1:
        assert counts["Reshape"] == 0


@pytest.mark.parametrize("n", [1, "N"])
@pytest.mark.parametrize("name", ["sigmoid", "scale by channel", "residual sum", "slice of frames"])
def test_dynamic_sizes(name: str, n: int | str, tmp_path: Path) -> None:
    nodes, constants = PASSES[name]
    model = between(nodes, constants, n=n, sizes=("T", "H", "W"))
    counts = convert_and_compare(model, tmp_path, 1 if n == 1 else 3)
    assert counts["Transpose"] == 2
    if n == 1:
        assert counts["Shape"] == counts["Reshape"] == 0


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("name", ["sigmoid", "residual sum", "edge pad", "softmax over channels"])
def test_older_opsets(name: str, opset: int, tmp_path: Path) -> None:
    nodes, constants = PASSES[name]
    model = between(nodes, constants, n=1, sizes=(T, H, W))
    model.opset_import[0].version = opset
    counts = convert_and_compare(model, tmp_path)
    assert counts["Transpose"] == (4 if name.startswith("softmax") and opset < 13 else 2)


def test_resize_with_a_region_of_opset_11(tmp_path: Path) -> None:
    resize = node(
        "Resize",
        ["a", "roi", "k"],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    constants = [constant("roi", []), constant("k", [1, 1, 1, 2, 2])]
    model = between([resize], constants, n=1, sizes=(T, H, W))
    model.opset_import[0].version = 11
    convert_and_compare(model, tmp_path)


def test_doubling_frames_out_of_channels_is_one_reshape(tmp_path: Path) -> None:
    """Wan's temporal upsampling: (1, 2C, T, H, W) -> (1, C, 2T, H, W)."""
    first, first_weight = conv("x", "a", outputs=2 * C)
    second, second_weight = conv("b", "y")
    nodes = [
        first,
        node("Reshape", ["a", "s6"], "six"),
        node("Transpose", ["six"], "swapped", perm=[0, 2, 3, 1, 4, 5]),
        node("Reshape", ["swapped", "s5"]),
        second,
    ]
    constants = [
        first_weight,
        second_weight,
        i64("s6", [1, 2, C, T, H, W]),
        i64("s5", [1, C, 2 * T, H, W]),
    ]
    graph = helper.make_graph(
        nodes,
        "upsample",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, C, T, H, W])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, C, 2 * T, H, W])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    counts = convert_and_compare(model, tmp_path)
    assert counts["Transpose"] == 2
    assert counts["Reshape"] == 1


def test_frames_as_a_batch_and_back_vanish(tmp_path: Path) -> None:
    """What PyTorch writes around a Conv2D on frames: permute, reshape, ..., reshape, permute."""
    nodes = [
        node("Transpose", ["a"], "p", perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["p", "s4"], "planes"),
        node("Sigmoid", ["planes"], "done"),
        node("Reshape", ["done", "s5"], "q"),
        node("Transpose", ["q"], perm=[0, 2, 1, 3, 4]),
    ]
    constants = [i64("s4", [T, C, H, W]), i64("s5", [1, T, C, H, W])]
    counts = convert_and_compare(between(nodes, constants, n=1, sizes=(T, H, W)), tmp_path)
    assert counts["Transpose"] == 2
    assert counts["Reshape"] == 0


STOPS = {
    "instance norm": (
        [node("InstanceNormalization", ["a", "g", "o"])],
        [constant("g", np.ones(C)), constant("o", np.zeros(C))],
    ),
    "reduction that drops its axis": (
        [
            node("ReduceSum", ["a", "axes"], "n", keepdims=0),
            node("Unsqueeze", ["n", "axes"], "u"),
            node("Sub", ["a", "u"]),
        ],
        [i64("axes", [1])],
    ),
    "vector made at run time": (
        [node("ReduceMean", ["a", "axes"], "v", keepdims=0), node("Mul", ["a", "v"])],
        [i64("axes", [0, 1, 2, 3])],
    ),
    "pad of the batch": (
        [node("Pad", ["a", "p"], "h"), node("Slice", ["h", "s", "e", "ax"])],
        [
            i64("p", [1] + [0] * 9),
            i64("s", [1]),
            i64("e", [2]),
            i64("ax", [0]),
        ],
    ),
    "reshape that mixes axes": (
        [node("Reshape", ["a", "s"], "h"), node("Reshape", ["h", "back"])],
        [i64("s", [1, C * T, H, W]), i64("back", [1, C, T, H, W])],
    ),
    "broadcast over the batch": (
        [node("Add", ["a", "two"], "h"), node("Slice", ["h", "s", "e", "ax"])],
        [
            constant("two", RNG.standard_normal((2, 1, 1, 1, 1))),
            i64("s", [0]),
            i64("e", [1]),
            i64("ax", [0]),
        ],
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_cannot_pass_gets_the_original_layout(name: str, tmp_path: Path) -> None:
    nodes, constants = STOPS[name]
    counts = convert_and_compare(between(nodes, constants, n=1, sizes=(T, H, W)), tmp_path)
    assert counts["Transpose"] == 4


def test_an_output_in_the_middle_keeps_its_name_and_layout(tmp_path: Path) -> None:
    model = between([node("Sigmoid", ["a"])], [], n=1, sizes=(T, H, W))
    model.graph.output.append(
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, C, T, H, W])
    )
    counts = convert_and_compare(model, tmp_path)
    assert counts["Transpose"] == 3
    # An Unsqueeze that makes an output would copy once more.
    makers = {n.output[0]: n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}
    assert makers["b"] == makers["y"] == "Transpose"


def test_a_nested_graph_reads_the_original_layout(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None)
        return helper.make_graph([node(op, ["a"], f"{name}.out")], name, [], [out])

    choice = node(
        "If", ["yes"], then_branch=branch("then", "Neg"), else_branch=branch("else", "Abs")
    )
    model = between([choice], [constant("yes", True, np.bool_)], n=1, sizes=(T, H, W))
    convert_and_compare(model, tmp_path)


def test_shape_of_a_moved_tensor(tmp_path: Path) -> None:
    """Sizes that a graph reads off a tensor are those of the original layout."""
    nodes = [
        node("Shape", ["a"], "size"),
        node("Slice", ["size", "one", "two"], "c"),
        node("Slice", ["size", "two", "five"], "thw"),
        node("Concat", ["batch", "c", "thw"], "target", axis=0),
        node("ConstantOfShape", ["target"], "zeros"),
        node("Add", ["a", "zeros"]),
    ]
    constants = [i64("one", [1]), i64("two", [2]), i64("five", [5]), i64("batch", [1])]
    convert_and_compare(between(nodes, constants, n=1, sizes=("T", "H", "W")), tmp_path)


def test_off_switch_and_report(tmp_path: Path) -> None:
    model = between([node("Sigmoid", ["a"])], [], n=1, sizes=(T, H, W))
    onnx.save(model, tmp_path / "in.onnx")
    convert(
        tmp_path / "in.onnx",
        tmp_path / "off.onnx",
        strategy="unfold",
        layout=False,
        validate=False,
    )
    assert ops(tmp_path / "off.onnx")["Transpose"] == 4


def test_provenance_says_where_each_output_is(tmp_path: Path) -> None:
    """The tensor named there, in the layout named there, is the original Conv's output."""
    import json

    model = between([node("Sigmoid", ["a"])], [], n=1, sizes=(T, H, W))
    convert_and_compare(model, tmp_path)
    converted = onnx.load(tmp_path / "out.onnx")
    metadata = {p.key: p.value for p in converted.metadata_props}
    where = json.loads(metadata["convert_vae.outputs"])["a"]
    assert where["layout"] == "TCHW"
    for proto, name in ((model, "a"), (converted, where["tensor"])):
        proto.graph.output.append(helper.make_empty_tensor_value_info(name))
    onnx.save(model, tmp_path / "in2.onnx")
    onnx.save(converted, tmp_path / "out2.onnx")
    x = RNG.standard_normal((1, C, T, H, W)).astype(np.float32)
    original, moved = run(tmp_path / "in2.onnx", x)[1], run(tmp_path / "out2.onnx", x)[1]
    np.testing.assert_allclose(moved.transpose(1, 0, 2, 3)[None], original, atol=1e-5)
