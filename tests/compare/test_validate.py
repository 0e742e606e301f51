import math
import time
import weakref
from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from converter.compare import validate as module
from converter.compare.tolerance import BF16, DOUBLE, FP16, FP32, Tolerance
from converter.compare.validate import validate
from converter.errors import UserError
from converter.session import SessionSettings
from tests.compare.graphs import conv3d, model, save

F32, F16, F64, BF = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
)
INT64 = TensorProto.INT64
# onnxruntime's CPU provider has no Conv of the last two.
KINDS = [
    (F32, 18, "onnxruntime", FP32),
    (F16, 18, "onnxruntime", FP16),
    (F64, 18, "reference evaluator", DOUBLE),
    (BF, 22, "reference evaluator", BF16),
]


def same(path, **options):
    return validate(path, path, provider="cpu", **options)


def pair(tmp_path, reference, candidate, **options):
    return validate(
        save(reference, tmp_path / "reference.onnx"),
        save(candidate, tmp_path / "candidate.onnx"),
        provider="cpu",
        **options,
    )


def unary(op, elem_type=F32, dims=(2, 3), **attributes):
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    return model([node], [("x", elem_type, list(dims))], [("y", elem_type, None)])


@pytest.mark.parametrize(("elem_type", "opset", "evaluator", "tolerance"), KINDS)
def test_a_graph_equals_itself(tmp_path, elem_type, opset, evaluator, tolerance):
    verdict = same(save(conv3d(elem_type, opset=opset), tmp_path / "m.onnx"))
    assert verdict.passed
    assert evaluator in verdict.evaluator
    assert verdict.tolerance is tolerance
    assert verdict.outputs[0].psnr_db == math.inf
    assert verdict.outputs[0].reference_max > 0.5  # not a comparison of zeros
    assert verdict.sentence().startswith("equal within tolerance: PSNR inf dB over a range of ")
    assert verdict.reference_seconds > 0
    assert verdict.candidate_seconds > 0


@pytest.mark.parametrize(("elem_type", "opset", "evaluator", "tolerance"), KINDS)
def test_a_planted_fault_fails_and_the_needed_tolerance_passes(
    tmp_path, elem_type, opset, evaluator, tolerance
):
    faulty = conv3d(elem_type, scale=30, opset=opset)
    verdict = pair(tmp_path, conv3d(elem_type, opset=opset), faulty)
    assert not verdict.passed
    assert evaluator in verdict.evaluator
    assert verdict.needed is not None
    assert verdict.sentence().startswith("different: output y: PSNR ")
    assert f"{verdict.needed} would have passed" in verdict.sentence()
    again = pair(tmp_path, conv3d(elem_type, opset=opset), faulty, tolerance=verdict.needed)
    assert again.passed
    assert again.tolerance == verdict.needed


def test_the_figures_are_those_of_the_two_convolutions(tmp_path):
    verdict = pair(tmp_path, conv3d(), conv3d(scale=1.5))
    # The fault is half of one weight: the difference is half of it times the first channel.
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 6, 8), np.float32)
    weight = numpy_helper.to_array(conv3d().graph.initializer[0])[0, 0, 1, 1, 1]
    error = np.zeros((1, 3, 3, 6, 8))
    error[:, 0] = 0.5 * float(weight) * x[:, 0]
    found = verdict.outputs[0]
    assert found.max_abs == pytest.approx(np.abs(error).max(), rel=1e-4)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    assert found.worst_index == np.unravel_index(np.abs(error).argmax(), error.shape)


def test_dynamic_sizes_are_found_and_given_ones_are_kept(tmp_path):
    path = save(conv3d(dims=["N", 2, "T", "H", "W"]), tmp_path / "m.onnx")
    assert same(path).feed_shapes == {"x": (1, 2, 3, 8, 12)}
    given = {"x": (2, 2, 5, 4, 3)}
    verdict = same(path, shapes=given)
    assert verdict.feed_shapes == given
    assert verdict.outputs[0].shape == (2, 3, 5, 4, 3)


def test_the_ladder_climbs_to_what_runs(tmp_path):
    # Without padding and dilated to a span of 11, nothing below T = 17 and H = W = 16 is legal.
    graph = conv3d(dims=[1, 2, "T", "H", "W"], dilations=[5, 5, 5], pads=[0] * 6)
    verdict = same(save(graph, tmp_path / "m.onnx"))
    assert verdict.feed_shapes == {"x": (1, 2, 17, 16, 24)}
    assert verdict.outputs[0].shape == (1, 3, 7, 6, 14)


def test_the_ladder_climbs_in_the_reference_evaluator_too(tmp_path):
    graph = conv3d(F64, dims=[1, 2, "T", "H", "W"], dilations=[5, 5, 5], pads=[0] * 6)
    verdict = same(save(graph, tmp_path / "m.onnx"))
    assert "reference evaluator" in verdict.evaluator
    assert verdict.feed_shapes == {"x": (1, 2, 17, 16, 24)}


def test_when_no_size_is_legal_a_shape_is_asked_for(tmp_path):
    graph = conv3d(dims=[1, 2, "T", "H", "W"], dilations=[50, 1, 1], pads=[0] * 6)
    path = save(graph, tmp_path / "m.onnx")
    with pytest.raises(UserError) as caught:
        same(path)
    message = str(caught.value)
    assert f"no size tried for the dynamic dimensions of {path} runs" in message
    assert "such as --shape x=1x2x3x8x8" in message
    assert "the last try, x=1x2x17x32x32:" in message
    assert "CPUExecutionProvider: " in message
    assert same(path, shapes={"x": (1, 2, 101, 3, 3)}).passed


def test_a_given_shape_that_does_not_run_is_told_with_the_reason(tmp_path):
    path = save(conv3d(dims=[1, 2, "T", "H", "W"], pads=[0] * 6), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx does not run on CPUExecutionProvider: "):
        same(path, shapes={"x": (1, 2, 1, 1, 1)})


def test_sizes_that_leave_nothing_to_compare_are_passed_over(tmp_path):
    dims = {"starts": [4], "ends": [100], "axes": [2]}
    constants = [numpy_helper.from_array(np.array(v), k) for k, v in dims.items()]
    graph = model(
        [helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"])],
        [("x", F32, [1, 2, "T", 2, 2])],
        [("y", F32, None)],
        constants,
    )
    path = save(graph, tmp_path / "m.onnx")
    assert same(path).feed_shapes == {"x": (1, 2, 5, 2, 2)}
    with pytest.raises(UserError, match="nothing to compare; give larger sizes by --shape"):
        same(path, shapes={"x": (1, 2, 4, 2, 2)})


def test_two_inputs_integers_booleans_and_optional_inputs(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["g"], axis=0),
        helper.make_node("Where", ["b", "g", "x"], ["y"]),
        helper.make_node("Not", ["b"], ["n"]),
        helper.make_node("Add", ["i", "one"], ["j"]),
    ]
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")
    one = numpy_helper.from_array(np.array(1), "one")
    ends = [("i", INT64, [5]), ("b", TensorProto.BOOL, [5]), ("x", F32, [5])]
    graph = model(
        nodes,
        [*ends, ("one", INT64, [])],
        [("y", F32, [5]), ("n", TensorProto.BOOL, [5]), ("j", INT64, [5])],
        [table, one],
    )
    other = model(nodes, ends, [("y", F32, [5]), ("n", TensorProto.BOOL, [5]), ("j", INT64, [5])],
                  [table, numpy_helper.from_array(np.array(2), "one")])  # fmt: skip
    verdict = same(save(graph, tmp_path / "m.onnx"))
    assert verdict.passed
    assert set(verdict.feed_shapes) == {"i", "b", "x"}
    assert [output.dtype for output in verdict.outputs] == ["float32", "bool", "int64"]
    verdict = pair(tmp_path, graph, other)
    assert not verdict.passed
    assert "output j: 5 elements differ; no tolerance would pass" in verdict.sentence()
    assert [bool(output.why_fails(FP32)) for output in verdict.outputs] == [False, False, True]


def test_nan_on_both_sides_is_counted_and_passes(tmp_path):
    verdict = same(save(unary("Log", dims=(40,)), tmp_path / "m.onnx"))
    found = verdict.outputs[0]
    negative = int((np.random.default_rng(0).standard_normal(40, np.float32) < 0).sum())
    assert found.reference_nan == found.candidate_nan == negative > 0
    assert verdict.passed
    assert f"{negative} elements NaN or infinite on both sides" in verdict.sentence()


def test_nan_on_one_side_fails_whatever_the_tolerance(tmp_path):
    loose = Tolerance(-1000.0, 1000.0)
    verdict = pair(tmp_path, unary("Abs", dims=(40,)), unary("Sqrt", dims=(40,)), tolerance=loose)
    assert not verdict.passed
    assert verdict.needed is None
    assert "NaN or infinite on one side only" in verdict.sentence()
    assert verdict.sentence().count("no tolerance would pass") == 1


def test_another_output_shape_fails_and_is_named(tmp_path):
    verdict = pair(tmp_path, unary("Identity"), unary("Transpose", perm=[1, 0]))
    assert not verdict.passed
    assert "output y: float32 [3, 2] instead of float32 [2, 3]" in verdict.sentence()


def test_another_interface_is_named_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="x in the reference, z in the candidate"):
        pair(tmp_path, conv3d(), conv3d(x="z"))
    with pytest.raises(UserError, match="different outputs"):
        pair(tmp_path, conv3d(), conv3d(y="z"))
    with pytest.raises(UserError, match="x float 1x2x3x6x8 in the reference, x float16"):
        pair(tmp_path, conv3d(), conv3d(F16))


def test_a_lower_precision_on_either_side_loosens_the_tolerance(tmp_path):
    halved = conv3d()
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=F16),
        helper.make_node("Cast", ["half"], ["full"], to=F32),
    ]
    halved.graph.node[0].input[0] = "full"
    for position, node in enumerate(nodes):
        halved.graph.node.insert(position, node)
    for left, right in ((conv3d(), halved), (halved, conv3d())):
        verdict = pair(tmp_path, left, right)
        assert verdict.tolerance is FP16
        assert verdict.passed
        assert 1e-4 < verdict.outputs[0].rel_l2 < 2**-11  # of rounding x once to fp16


def test_bfloat16_passes_through_onnxruntime(tmp_path):
    verdict = same(save(unary("Identity", BF, ["T", 3]), tmp_path / "m.onnx"))
    assert "onnxruntime" in verdict.evaluator
    assert verdict.outputs[0].dtype == "bfloat16"
    assert verdict.outputs[0].reference_max > 0.5
    assert verdict.passed


def test_a_kernel_missing_only_in_the_candidate_moves_both_sides(tmp_path):
    double = model(
        [
            helper.make_node("Cast", ["x"], ["d"], to=F64),
            helper.make_node("Conv", ["d", "w"], ["e"], pads=[1] * 6),
            helper.make_node("Cast", ["e"], ["y"], to=F32),
        ],
        [("x", F32, [1, 2, 3, 6, 8])],
        [("y", F32, None)],
        [conv3d(F64).graph.initializer[0]],
    )
    verdict = pair(tmp_path, conv3d(), double)
    assert "reference evaluator" in verdict.evaluator
    assert verdict.tolerance is FP32
    assert verdict.passed


def test_a_graph_too_large_for_the_reference_evaluator_is_refused(tmp_path, monkeypatch):
    small = partial(module.ReferenceRunner, work_limit=100)
    monkeypatch.setattr(module, "ReferenceRunner", small)
    path = save(conv3d(F64), tmp_path / "m.onnx")
    with pytest.raises(UserError) as caught:
        same(path)
    assert "too large for the ONNX reference evaluator" in str(caught.value)
    assert "NOT_IMPLEMENTED: Could not find an implementation for Conv" in str(caught.value)


def test_an_opset_newer_than_onnxruntime_runs_in_the_reference_evaluator(tmp_path):
    graph = unary("Abs")
    graph.ir_version = 1000  # stands for any that this onnxruntime does not know yet
    verdict = same(save(graph, tmp_path / "m.onnx"))
    assert "reference evaluator" in verdict.evaluator
    assert verdict.passed


def test_external_data_is_found(tmp_path):
    path = tmp_path / "m.onnx"
    save_model(conv3d(), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").stat().st_size >= 3 * 2 * 27 * 4
    assert same(path).passed
    save_model(
        conv3d(F64), str(path), save_as_external_data=True, location="d.data", size_threshold=0
    )
    assert same(path).passed


def test_the_seed_decides_the_feed(tmp_path):
    path = save(conv3d(), tmp_path / "m.onnx")
    ranges = [same(path, seed=seed).outputs[0].data_range for seed in (0, 0, 1)]
    assert ranges[0] == ranges[1] != ranges[2]
    assert same(path, seed=7).seed == 7


def test_only_the_candidates_session_is_strict(tmp_path, monkeypatch):
    strict = {}

    def make(path, provider, settings):
        strict[path.name] = settings.strict
        return make_session(path, provider, settings)

    make_session = module.make_session
    monkeypatch.setattr(module, "make_session", make)
    assert pair(tmp_path, conv3d(), conv3d(), settings=SessionSettings(strict=True)).passed
    assert strict == {"reference.onnx": False, "candidate.onnx": True}


def test_seconds_are_those_of_the_runs(tmp_path):
    start = time.perf_counter()
    verdict = same(save(conv3d(), tmp_path / "m.onnx"))
    assert verdict.reference_seconds + verdict.candidate_seconds < time.perf_counter() - start


def test_stages_are_told(tmp_path):
    stages = []
    same(save(conv3d(F64), tmp_path / "m.onnx"), progress=stages.append)
    assert stages == [
        "running the original graph",
        "onnxruntime cannot run the graph; running the ONNX reference evaluator",
        "running the original graph",
        "running the converted graph",
        "comparing",
    ]


@pytest.mark.parametrize("elem_type", [F32, F64])
def test_the_two_graphs_are_never_loaded_together(tmp_path, monkeypatch, elem_type):
    alive: list[weakref.ref] = []

    def watch(make):
        def made(*arguments):
            assert not [runner for runner in (ref() for ref in alive) if runner]
            runner = make(*arguments)
            alive.append(weakref.ref(runner))
            return runner

        return made

    monkeypatch.setattr(module, "make_session", watch(module.make_session))
    monkeypatch.setattr(module, "ReferenceRunner", watch(module.ReferenceRunner))
    # The sizes that fail first leave tracebacks, which hold on to what they saw.
    graph = conv3d(elem_type, dims=[1, 2, "T", "H", "W"], dilations=[5, 5, 5], pads=[0] * 6)
    assert same(save(graph, tmp_path / "m.onnx")).passed
    assert len(alive) == 2


def test_without_onnxruntime_the_extras_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    module.choose.__globals__["_why_unusable"].cache_clear()
    with pytest.raises(UserError, match=r"onnxruntime is not installed; .*convert-vae\[cpu\]"):
        same(save(conv3d(), tmp_path / "m.onnx"))
