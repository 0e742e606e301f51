"""What a validation tells: of its outputs the worst, and as JSON everything."""

import json
import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converter.compare.tolerance import FP32
from converter.compare.validate import Validation
from converter.providers import Usable
from tests.compare.graphs import conv3d, model
from tests.compare.test_validate import pair

F32 = TensorProto.FLOAT


def verdict_of(*outputs, needed=None, passed=True):
    return Validation(
        passed=passed,
        provider=Usable("cpu", "CPUExecutionProvider", ("rocm: no.",)),
        evaluator="onnxruntime 1 CPUExecutionProvider",
        seed=3,
        feed_shapes={"x": (1, 2)},
        tolerance=FP32,
        needed=needed,
        outputs=outputs,
        reference_seconds=0.5,
        candidate_seconds=0.25,
    )


def test_json_has_every_figure(tmp_path):
    verdict = pair(tmp_path, conv3d(), conv3d(scale=1.5))
    report = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert report["passed"] is False
    assert report["tolerance"] == {"min_psnr_db": 90.0, "max_abs_of_range": 1e-4}
    assert report["needed_tolerance"]["min_psnr_db"] == verdict.needed.min_psnr_db
    assert report["feed_shapes"] == {"x": [1, 2, 3, 6, 8]}
    assert report["outputs"][0]["psnr_db"] == verdict.outputs[0].psnr_db
    assert report["outputs"][0]["worst_index"] == list(verdict.outputs[0].worst_index)
    empty = verdict_of().to_json()
    assert empty["needed_tolerance"] is None
    assert empty["provider"] == "cpu"
    assert empty["provider_why_not"] == ["rocm: no."]
    assert (empty["reference_seconds"], empty["candidate_seconds"]) == (0.5, 0.25)
    assert (empty["seed"], empty["evaluator"]) == (3, "onnxruntime 1 CPUExecutionProvider")


def test_the_needed_tolerance_covers_every_output(tmp_path):
    def two(scale, shift):
        constants = {"s": scale, "t": shift}
        return model(
            [
                helper.make_node("Mul", ["x", "s"], ["y"]),
                helper.make_node("Add", ["x", "t"], ["z"]),
            ],
            [("x", F32, [100])],
            [("y", F32, None), ("z", F32, None)],
            [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()],
        )

    verdict = pair(tmp_path, two(1, 0), two(1.2, 0.1))
    y, z = (output.needed() for output in verdict.outputs)
    assert verdict.needed.min_psnr_db == min(y.min_psnr_db, z.min_psnr_db)
    assert verdict.needed.max_abs_of_range == max(y.max_abs_of_range, z.max_abs_of_range)
    assert y != z
    assert verdict.sentence().count("output ") == 2


def test_the_figures_of_the_worst_output_are_told_and_empty_ones_do_not_count(tmp_path):
    def three(shift):
        return model(
            [
                helper.make_node("Identity", ["x"], ["same"]),
                helper.make_node("Add", ["x", "t"], ["moved"]),
                helper.make_node("Slice", ["x", "zero", "zero"], ["nothing"]),
            ],
            [("x", F32, [9])],
            [(name, F32, None) for name in ("same", "moved", "nothing")],
            [
                numpy_helper.from_array(np.float32(shift), "t"),
                numpy_helper.from_array(np.zeros(1, np.int64), "zero"),
            ],
        )

    verdict = pair(tmp_path, three(0), three(1e-5))
    same, moved, nothing = verdict.outputs
    assert same.psnr_db == nothing.psnr_db == math.inf
    assert verdict.sentence().startswith(f"equal within tolerance: {moved.figures()} (")
