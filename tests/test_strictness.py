import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from converter.strictness import more_than_shapes
from tests.small_models import model, save, value

N = helper.make_node


def graph():
    """Reshape and Cast of a video, and the same of its shape; a scale and a grid of integers."""
    nodes = [
        N("Shape", ["x"], ["s"], name="shape"),
        N("Cast", ["s"], ["f"], name="cast_shape", to=TensorProto.FLOAT),
        N("Mul", ["f", "two"], ["scales"], name="scale"),
        N("Reshape", ["s", "square"], ["grid"], name="grid"),
        N("Reshape", ["x", "flat"], ["v"], name="flatten"),
        N("Cast", ["v"], ["h"], name="cast_video", to=TensorProto.FLOAT16),
        N("Relu", ["scales"], ["r"], name="relu"),
        N("If", ["c"], ["y"], name="if", then_branch=branch("Add"), else_branch=branch("Sub")),
    ]
    return model(
        nodes,
        [value("x", ["N", 4, "H", "W"]), value("c", [], TensorProto.BOOL)],
        [value("h", [None] * 2, TensorProto.FLOAT16), value("r", [None]), value("y", [None] * 4)],
        [
            from_array(np.full(1, 2, np.float32), "two"),
            from_array(np.array([2, 2]), "square"),
            from_array(np.array([0, -1]), "flat"),
        ],
    )


def branch(op):
    nodes = [N(op, ["x", "x"], [f"{op}_y"], name=f"inner_{op}")]
    return helper.make_graph(nodes, "branch", [], [value(f"{op}_y", [None] * 4)])


@pytest.mark.parametrize(
    ("node", "more"),
    [
        (("Shape", "shape"), False),
        (("Cast", "cast_shape"), False),
        (("Mul", "scale"), False),
        (("Reshape", "grid"), False),
        (("Reshape", "flatten"), True),
        (("Cast", "cast_video"), True),
        (("Add", "inner_Add"), True),
        (("Relu", "relu"), True),  # No operator of shapes.
        (("Conv", ""), True),
        (("Cast", ""), False),
        (("Cast", "InsertedPrecisionFreeCast_1"), False),
        (("?", "?"), True),
    ],
)
def test_what_is_more_than_shape_arithmetic(tmp_path, node, more):
    proto = graph()
    for given in (proto.SerializeToString(), str(save(proto, tmp_path / "m.onnx"))):
        assert more_than_shapes(given, [node]) == ([node] if more else [])


def test_the_order_stays(tmp_path):
    nodes = [("Relu", "relu"), ("Shape", "shape"), ("Cast", "cast_video")]
    path = str(save(graph(), tmp_path / "m.onnx"))
    assert more_than_shapes(path, nodes) == [nodes[0], nodes[2]]
    assert more_than_shapes("there is no such file", [("Conv", "c")]) == [("Conv", "c")]
