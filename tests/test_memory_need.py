import onnx
import pytest
from onnx import TensorProto, helper

from converter.errors import UserError
from converter.memory_need import run_bytes

FLOAT = 4


def save(folder, nodes, outputs, dims=("N", 2)):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, dims)],
        [info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    path = folder / "g.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


def test_a_chain_holds_two_at_a_time_and_its_input(tmp_path):
    chain = [node("Relu", ["x"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"], "y")]
    assert run_bytes(save(tmp_path, chain, ["y"]), {"x": (5, 2)}) == 3 * 10 * FLOAT


def test_what_is_read_later_is_held(tmp_path):
    wide = [
        node("Concat", ["x", "x", "x"], "a", axis=1),  # 3
        node("Relu", ["a"], "b"),  # 3
        node("Relu", ["b"], "c"),  # 3: a is still to be read
        node("Add", ["a", "c"], "d"),  # 3
        node("ReduceMean", ["d"], "y", keepdims=1),
    ]
    # x, a, b and c: 1 + 3 + 3 + 3; when d is made, b is gone.
    assert run_bytes(save(tmp_path, wide, ["y"]), {"x": (5, 2)}) == 10 * 10 * FLOAT


def test_it_grows_with_the_input(tmp_path):
    path = save(tmp_path, [node("Relu", ["x"], "y")], ["y"])
    assert run_bytes(path, {"x": (50, 2)}) == 10 * run_bytes(path, {"x": (5, 2)})


def test_shapes_that_cannot_be_told(tmp_path):
    path = save(tmp_path, [node("NonZero", ["x"], "a"), node("Cast", ["a"], "y", to=1)], ["y"])
    assert run_bytes(path, {"x": (5, 2)}) is None
    assert run_bytes(path, {"x": (5, 2), "y": (2, 10)}) is not None


def test_no_graph(tmp_path):
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="is not an ONNX file"):
        run_bytes(tmp_path / "g.onnx", {})
