"""The clamp at the end of a graph, and what may stand behind it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converter.errors import UserError
from converter.runtime.unclamped import unclamped

X = np.float32([[-3, -1, 0.5], [1, 2, 0]])
CLIP = ("Clip", ["x", "low", "high"], ["c"])


def write(path, *nodes, outputs=("y",), bounds=(("low", -1), ("high", 1)), last=()):
    initializers = [numpy_helper.from_array(np.float32(v), name) for name, v in bounds]
    made = [helper.make_node(op, reads, gives) for op, reads, gives in nodes]
    graph = helper.make_graph(
        [*last, *made],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def run(content, name="y"):
    return ReferenceEvaluator(onnx.load_from_string(content)).run([name], {"x": X})[0]


def test_what_is_behind_the_clamp_stays(tmp_path):
    path = write(tmp_path / "a.onnx", CLIP, ("Transpose", ["c"], ["t"]), ("Identity", ["t"], ["y"]))
    np.testing.assert_array_equal(run(path.read_bytes()), X.clip(-1, 1).T)
    np.testing.assert_array_equal(run(unclamped(path)), X.T)


@pytest.mark.parametrize("op", ["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])
def test_operators_that_only_move_numbers_may_follow(tmp_path, op):
    """The weights, which are beside the graph, are not read."""
    path = write(tmp_path / "a.onnx", CLIP, (op, ["c"], ["y"]))
    model = onnx.load(path)
    weights = model.graph.initializer.add(name="w", dims=[1], data_type=TensorProto.FLOAT)
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="missing.data")
    path.write_bytes(model.SerializeToString())
    found = onnx.load_from_string(unclamped(path))
    assert [node.op_type for node in found.graph.node] == ["Identity", op]


def test_the_clamp_may_be_last_of_another_output_and_its_bounds_constants_of_nodes(tmp_path):
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(value)))
        for name, value in (("low", -1), ("high", 1))
    ]
    path = write(
        tmp_path / "a.onnx",
        ("Neg", ["x"], ["z"]),
        ("Clip", ["x", "low", "high"], ["y"]),
        outputs=("z", "y"),
        bounds=(),
        last=constants,
    )
    np.testing.assert_array_equal(run(unclamped(path, "y")), X)
    assert unclamped(path) is None  # the first output, which is no Clip's


@pytest.mark.parametrize(
    ("nodes", "bounds"),
    [
        ([CLIP, ("Neg", ["c"], ["y"])], [("low", -1), ("high", 1)]),
        ([CLIP, ("Identity", ["c"], ["y"]), ("Neg", ["c"], ["z"])], [("low", -1), ("high", 1)]),
        ([CLIP, ("Identity", ["c"], ["y"])], [("low", 0), ("high", 1)]),
        ([CLIP, ("Identity", ["c"], ["y"])], [("low", -1), ("high", 255)]),
        ([("Clip", ["x", "low"], ["y"])], [("low", -1)]),
        ([("Clip", ["x", "", "high"], ["y"])], [("high", 1)]),
        ([("Identity", ["x"], ["y"])], []),
    ],
    ids=["changed", "read twice", "low", "high", "no high", "no low", "no clamp"],
)
def test_another_graph_is_left_as_it_is(tmp_path, nodes, bounds):
    outputs = [gives[0] for _, _, gives in nodes if gives[0] in "yz"]
    assert unclamped(write(tmp_path / "a.onnx", *nodes, outputs=outputs, bounds=bounds)) is None


def test_what_is_no_graph_is_told(tmp_path):
    (tmp_path / "a.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"the graph .*a\.onnx cannot be read: "):
        unclamped(tmp_path / "a.onnx")
