import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.numpy_helper import from_array

from converter import convert
from converter.placement import place
from converter.target import best_opset, suit
from tests.small_models import conv3d, model, save, value


def chain(ops, opset, **attributes):
    """A model of unary operators, one after the other."""
    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    nodes = [
        helper.make_node(op, [a], [b], name=op, **attributes.get(op, {}))
        for op, a, b in zip(ops, names, names[1:], strict=False)
    ]
    return model(nodes, [value("x", [1, 4, 8, 8])], [value(names[-1], [None] * 4)], opset=opset)


@pytest.mark.parametrize(
    ("target", "before", "after"),
    [
        ("generic", 22, 18),
        ("generic", 15, 15),
        ("rocm", 22, 18),
        ("rocm", 18, 18),
        ("rocm", 15, 15),
        ("migraphx", 22, 18),
        ("cpu", 22, 18),
        ("cuda", 22, 18),
    ],
)
def test_the_opset_of_a_target(target, before, after):
    graph = chain(["Relu", "Sigmoid"], before)
    change = suit(graph, target, None)
    assert (change.before, change.after) == (before, after)
    assert graph.opset_import[0].version == after


def test_the_user_may_insist():
    graph = chain(["Relu", "Softplus"], 18)
    assert suit(graph, "rocm", 22).after == 22
    assert not place(graph, "rocm").complete


def test_where_18_lacks_an_operator_the_nearest_opset_that_has_it_is_taken():
    assert best_opset(chain(["Gelu", "Relu"], 22), "rocm") == 20
    assert best_opset(chain(["Gelu"], 22, Gelu={"approximate": "tanh"}), "cuda") == 20


def test_of_two_evils_the_lesser():
    """Unique falls to the CPU at any opset, Elu at 22, and Gelu exists from 20 on."""
    graph = chain(["Gelu", "Elu", "Unique"], 22)
    assert best_opset(graph, "rocm") == 20
    assert len(place(graph, "rocm").fallbacks) == 2
    suit(graph, "rocm", None)
    assert [f.op for f in place(graph, "rocm").fallbacks] == ["Unique"]


@pytest.mark.parametrize(("target", "after"), [("rocm", 10), ("migraphx", 13), ("generic", 14)])
def test_the_ir_version_is_one_that_the_target_loads(target, after):
    graph = chain(["Relu"], 18)
    graph.ir_version = 14
    suit(graph, target, None)
    assert graph.ir_version == after


def test_converting_for_a_target_reports_the_placement(tmp_path):
    source = save(conv3d(opset=22), tmp_path / "a.onnx")
    result = convert(source, tmp_path / "b.onnx", target="rocm", validate=False)
    assert result.placement is not None
    assert result.placement.complete
    assert result.to_json()["placement"]["target"] == "rocm"
    assert check_model_opset(tmp_path / "b.onnx") == 18
    assert convert(source, tmp_path / "c.onnx", validate=False).placement is None


def test_for_a_target_a_graph_without_conv3d_is_brought_to_its_opset_too(tmp_path):
    source = save(chain(["Relu"], 22), tmp_path / "a.onnx")
    convert(source, tmp_path / "b.onnx", target="rocm", validate=False)
    assert check_model_opset(tmp_path / "b.onnx") == 18
    convert(source, tmp_path / "c.onnx", validate=False)
    assert (tmp_path / "c.onnx").read_bytes() == source.read_bytes()


def check_model_opset(path):
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded)
    return loaded.opset_import[0].version


def edge_padded(path):
    """x -> Pad by the edge -> Conv3D -> y."""
    graph = conv3d(pads=[0, 1, 1] * 2)
    graph.graph.node[0].input[0] = "padded"
    graph.graph.node.insert(
        0, helper.make_node("Pad", ["x", "pads", "", "axes"], ["padded"], name="pad", mode="edge")
    )
    for name, values in (("pads", [2, 0]), ("axes", [2])):
        graph.graph.initializer.append(from_array(np.array(values, np.int64), name))
    return save(graph, path)


def test_what_a_target_lacks_is_spelled_out_there_alone(tmp_path):
    source = edge_padded(tmp_path / "a.onnx")
    for target, pads in (("migraphx", 0), ("rocm", 1), ("cpu", 1), ("generic", 1)):
        result = convert(source, tmp_path / "b.onnx", target=target, overwrite=True)
        ops = [n.op_type for n in onnx.load(tmp_path / "b.onnx").graph.node]
        assert ops.count("Pad") == pads, target
        assert result.validation.passed
        assert result.placement is None or result.placement.complete
        said = (
            "1 Pad of mode edge is spelled out by Slice and Concat, as MIGraphXExecutionProvider "
            "does not take them"
        )
        assert (said in result.notes) == (target == "migraphx")
