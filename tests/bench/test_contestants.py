import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from converter.bench import contestants as module
from converter.bench.contestants import Gemm, OnnxGraph, OpenVinoGraph
from converter.errors import UserError
from tests.compare.graphs import VIDEO, conv3d, save


def test_the_gemm_multiplies_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(module, "GEMM_SIZE", 8)
    gemm = Gemm("cpu", threads=1)
    feed = gemm.feed()
    (y,) = gemm.load().run(feed).values()
    b = np.random.default_rng(1).standard_normal((8, 8), np.float32) / np.sqrt(8)
    expected = feed["a"].astype(np.float64)
    for _ in range(module.GEMM_COUNT):
        expected = expected @ b
    assert np.allclose(y, expected, rtol=0, atol=1e-5)  # four fp32 sums of eight


def test_gemm_operations_are_two_a_multiply_add():
    assert module.GEMM_OPERATIONS == 2 * 1024 * 1024 * 1024 * 4


def test_threads_reach_the_session(tmp_path):
    graph = OnnxGraph("g", save(conv3d(), tmp_path / "m.onnx"), "cpu", threads=3)
    options = graph.load()._session.get_session_options()
    assert options.intra_op_num_threads == 3


def test_openvino_runs_the_same_graph(tmp_path):
    pytest.importorskip("openvino")
    path = save(conv3d(), tmp_path / "m.onnx")
    feed = {"x": np.random.default_rng(0).standard_normal(VIDEO, np.float32)}
    runner = OpenVinoGraph("ov", path, "f32", threads=1).load()
    outputs = runner.run(feed)
    expected = OnnxGraph("ort", path, "cpu", threads=1).load().run(feed)
    assert outputs.keys() == expected.keys()
    assert np.abs(outputs["y"] - expected["y"]).max() < 1e-5  # fp32 sums of 54
    assert runner.description.startswith("OpenVINO 20")
    assert "float" in runner.description or "f32" in runner.description


def fake_openvino(able):
    openvino = ModuleType("openvino")
    openvino.Core = lambda: SimpleNamespace(get_property=lambda device, key: able)
    return openvino


def test_openvino_is_not_let_to_fall_back_to_float32(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", fake_openvino(["FP32", "INT8"]))
    with pytest.raises(UserError, match="no bfloat16 instructions"):
        OpenVinoGraph("ov", tmp_path / "m.onnx", "bf16").load()


def test_without_openvino_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"convert-vae\[bench\]"):
        OpenVinoGraph("ov", tmp_path / "m.onnx", "f32").load()
