import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.compare.reference_evaluator import ReferenceRunner, TooMuchWorkError
from converter.errors import UserError
from converter.session import RunError
from tests.compare.graphs import VIDEO, conv3d, model, save

F64 = TensorProto.DOUBLE
# conv3d: 3 x 6 x 8 outputs of 3 x 2 x 27 products each.
WORK = 144 * 162


def test_runs_and_describes_itself(tmp_path):
    runner = ReferenceRunner(save(conv3d(F64), tmp_path / "m.onnx"))
    assert runner.description.startswith("onnx ")
    outputs = runner.run({"x": np.zeros(VIDEO)})
    assert outputs["y"].tolist() == np.zeros((1, 3, 3, 6, 8)).tolist()


def test_stops_when_a_run_takes_more_work_than_the_limit(tmp_path):
    path = save(conv3d(F64), tmp_path / "m.onnx")
    feed = {"x": np.zeros(VIDEO)}
    enough = ReferenceRunner(path, work_limit=WORK)
    enough.run(feed)
    enough.run(feed)  # the limit is that of a run
    with pytest.raises(TooMuchWorkError, match=r"m\.onnx is too large .* smaller --shape"):
        ReferenceRunner(path, work_limit=WORK - 1).run(feed)


def test_work_inside_subgraphs_and_functions_counts(tmp_path):
    weights = numpy_helper.from_array(np.ones((2, 2, 1, 1, 1)), "w")
    conv = helper.make_node("Conv", ["x", "w"], ["b"])
    body = helper.make_graph([conv], "body", [], [helper.make_tensor_value_info("b", F64, None)])
    always = numpy_helper.from_array(np.bool_(True), "c")
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    dims = [1, 2, 1, 2, 2]
    ends = [("x", F64, dims)], [("y", F64, dims)], [always, weights]
    nested = save(model([branch], *ends), tmp_path / "nested.onnx")
    function = helper.make_function(
        "local", "F", ["x", "w"], ["b"], [conv], [helper.make_opsetid("", 18)]
    )
    local = model([helper.make_node("F", ["x", "w"], ["y"], domain="local")], *ends)
    local.functions.append(function)
    local.opset_import.append(helper.make_opsetid("local", 1))
    for path in (nested, save(local, tmp_path / "local.onnx")):
        feed = {"x": np.ones(dims)}
        assert ReferenceRunner(path, work_limit=16).run(feed)["y"].tolist() == [
            np.full(dims[1:], 2.0).tolist()
        ]
        with pytest.raises(TooMuchWorkError):
            ReferenceRunner(path, work_limit=15).run(feed)


def test_a_feed_that_does_not_fit_is_a_run_error(tmp_path):
    runner = ReferenceRunner(save(conv3d(F64), tmp_path / "m.onnx"))
    with pytest.raises(RunError, match=r"m\.onnx does not run in the ONNX reference evaluator"):
        runner.run({"x": np.zeros((1, 7, 3, 6, 8))})


def test_an_unknown_operator_is_a_sentence(tmp_path):
    node = helper.make_node("Nothing", ["x"], ["y"], domain="com.unknown")
    path = save(model([node], [("x", F64, [1])], [("y", F64, [1])]), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx .*reference evaluator"):
        ReferenceRunner(path)
