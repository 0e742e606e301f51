"""Tuning: what is measured is the Conv that is meant, and the fastest is taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import UserError, convert, tune
from converter.conv3d import find_conv3d
from converter.model_file import load
from converter.surgeon import open_model
from converter.tune import Tuner, signature_of
from converter.tuning_cache import Bench, TuningCache

BENCH = Bench("CPUExecutionProvider", "0", "test", 1)


def write(path: Path, frames: int | str = 4, dtype: int = TensorProto.FLOAT, n: int = 1) -> Path:
    weight = np.ones((4, 4, 3, 3, 3), helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[2, 1, 1, 0, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["y"], name="second", pads=[2, 1, 1, 0, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", dtype, [n, 4, frames, 5, 6])],
        [helper.make_tensor_value_info("y", dtype, [n, 4, frames, 5, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def first_conv(path: Path):
    model = load(path)
    surgery = open_model(model.proto)
    return find_conv3d([surgery.graph], model.weights, surgery.opset)[0]


@pytest.fixture
def race(monkeypatch):
    """Sessions that are not timed: the times come from a table, the calls are recorded."""
    calls = []
    table = {"keep": 4.0, "unfold": 3.0, "taps": 5.0, "winograd": 2.0, "winograd2d": 6.0}

    def interleaved(sessions):
        calls.append(sorted(sessions))
        return {name: table[name] for name in sessions}

    monkeypatch.setattr(tune, "_interleaved", interleaved)
    return table, calls


def test_takes_the_fastest_and_measures_equal_convs_once(race, tmp_path: Path) -> None:
    _, calls = race
    tuner = Tuner(TuningCache(tmp_path / "t.json"), BENCH, "cpu")
    path = write(tmp_path / "in.onnx")
    model = load(path)
    surgery = open_model(model.proto)
    choices = [tuner(conv) for conv in find_conv3d([surgery.graph], model.weights, 18)]
    assert [choice.strategy for choice in choices] == ["winograd", "winograd"]
    assert calls == [["keep", "taps", "unfold", "winograd", "winograd2d"]]
    assert choices[0].seconds["unfold"] == 3.0
    assert "winograd 2e+03 ms, unfold 3e+03 ms, keep 4e+03 ms" in choices[0].reason


def test_keep_must_be_faster_beyond_noise(race, tmp_path: Path) -> None:
    table, _ = race
    table.update(keep=1.0, unfold=1.04, taps=2.0, winograd=2.0)
    conv = first_conv(write(tmp_path / "in.onnx"))
    choice = Tuner(TuningCache(tmp_path / "a"), BENCH, "cpu")(conv)
    assert choice.strategy == "unfold"
    assert choice.reason.startswith("as fast as keep within noise, as measured: keep 1e+03 ms, unf")
    table.update(keep=1.0, unfold=1.06)
    choice = Tuner(TuningCache(tmp_path / "b"), BENCH, "cpu")(conv)
    assert choice.strategy == "keep"
    assert choice.reason.startswith("the fastest measured: keep")


def test_accuracy_exact_leaves_winograd_out(race, tmp_path: Path) -> None:
    conv = first_conv(write(tmp_path / "in.onnx"))
    tuner = Tuner(TuningCache(tmp_path / "t"), BENCH, "cpu", accuracy="exact")
    assert tuner(conv).strategy == "unfold"


def test_times_are_reused_on_the_same_bench_only(race, tmp_path: Path) -> None:
    _, calls = race
    conv = first_conv(write(tmp_path / "in.onnx"))
    path = tmp_path / "t.json"
    Tuner(TuningCache(path), BENCH, "cpu")(conv)
    Tuner(TuningCache(path), BENCH, "cpu")(conv)
    assert len(calls) == 1
    Tuner(TuningCache(path), Bench("CPUExecutionProvider", "0", "other", 1), "cpu")(conv)
    assert len(calls) == 2
    assert len(json.loads(path.read_text())["seconds"]) == 2


def test_what_was_measured_survives_an_interruption(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    cache = TuningCache(path)
    cache.put(BENCH, "s", "unfold", 1.5)
    assert TuningCache(path).get(BENCH, "s") == {"unfold": 1.5}
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 99, "seconds": {}}', '{"version": 1}'])
def test_refuses_a_file_that_is_no_cache(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(UserError, match="tuning cache"):
        TuningCache(tmp_path / "t")


@pytest.mark.parametrize(("frames", "dtype"), [("T", TensorProto.FLOAT), (4, TensorProto.FLOAT16)])
def test_what_cannot_be_run_alone_is_estimated(frames, dtype, tmp_path: Path) -> None:
    conv = first_conv(write(tmp_path / "in.onnx", frames, dtype))
    assert signature_of(conv) is None
    choice = Tuner(TuningCache(tmp_path / "t"), BENCH, "cpu")(conv)
    assert choice.strategy in ("unfold", "winograd")
    assert "not measured" in choice.reason


@pytest.mark.parametrize("n", [1, 2])
def test_a_tuned_conversion_runs_and_is_equal(n: int, tmp_path: Path) -> None:
    """The real thing, small: every candidate is built and run, and the result is validated."""
    source = write(tmp_path / "in.onnx", n=n)
    result = convert(
        source, tmp_path / "out.onnx", tune=True, tuning_cache=tmp_path / "t.json", provider="cpu"
    )
    assert result.validation is not None
    assert result.validation.passed
    # The plan may be the untuned one, where that was faster as a whole; what was timed is kept.
    (conv3ds,) = json.loads((tmp_path / "t.json").read_text())["seconds"].values()
    (seconds,) = conv3ds.values()
    assert set(seconds) == {"keep", "unfold", "taps"} | (
        {"winograd", "winograd2d"} if n == 1 else set()
    )
    assert all(value > 0 for value in seconds.values())


def test_candidates_stand_between_frame_major_tensors(tmp_path: Path) -> None:
    """No Transpose is timed: between neighbours in frame-major layout there is none."""
    conv = first_conv(write(tmp_path / "in.onnx"))
    for strategy in ("unfold", "taps", "winograd"):  # In winograd2d the tiles are transposed.
        path = tune._candidate(conv, strategy, tmp_path)
        ops = [node.op_type for node in onnx.load(path).graph.node]
        assert "Transpose" not in ops
        assert "Conv" in ops
