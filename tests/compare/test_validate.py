import json

import numpy as np
import pytest
from onnx import TensorProto

from converter.compare.validate import validate
from tests.compare.graphs import conv3d, save

KINDS = [
    (TensorProto.FLOAT, 18, "onnxruntime"),
    (TensorProto.FLOAT16, 18, "onnxruntime"),
    (TensorProto.DOUBLE, 18, "reference evaluator"),
    (TensorProto.BFLOAT16, 22, "reference evaluator"),
]


@pytest.mark.parametrize(("elem_type", "opset", "evaluator"), KINDS)
def test_planted_fault_fails_and_the_suggested_tolerance_passes(
    tmp_path, elem_type, opset, evaluator
):
    reference = save(conv3d(elem_type, opset=opset), tmp_path / "a.onnx")
    candidate = save(conv3d(elem_type, scale=30, opset=opset), tmp_path / "b.onnx")
    assert validate(reference, reference, provider="cpu").passed
    verdict = validate(reference, candidate, provider="cpu")
    assert not verdict.passed
    assert evaluator in verdict.evaluator
    assert verdict.needed is not None
    assert validate(reference, candidate, provider="cpu", tolerance=verdict.needed).passed


def test_dynamic_sizes_are_found_and_given_ones_are_kept(tmp_path):
    path = save(conv3d(dims=["N", 2, "T", "H", "W"]), tmp_path / "a.onnx")
    assert validate(path, path, provider="cpu").feed_shapes == {"x": (1, 2, 3, 8, 12)}
    given = {"x": (2, 2, 5, 4, 3)}
    verdict = validate(path, path, provider="cpu", shapes=given)
    assert verdict.feed_shapes == given
    assert verdict.outputs[0].shape == (2, 3, 5, 4, 3)


def test_json_has_every_figure(tmp_path):
    reference = save(conv3d(), tmp_path / "a.onnx")
    candidate = save(conv3d(scale=1.5), tmp_path / "b.onnx")
    report = json.loads(json.dumps(validate(reference, candidate).to_json(), allow_nan=False))
    assert report["passed"] is False
    assert report["outputs"][0]["psnr_db"] < report["tolerance"]["min_psnr_db"]
    assert np.prod(report["outputs"][0]["shape"]) == 3 * 3 * 6 * 8
