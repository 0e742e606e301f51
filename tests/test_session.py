import sys
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from converter import session as module
from converter.assignment import RECORD
from converter.errors import UserError
from converter.session import (
    CPU_ID,
    NotSupportedError,
    RunError,
    Session,
    SessionSettings,
    TensorInfo,
    first_line,
    onnxruntime,
)
from tests.compare.graphs import conv3d, model, save

pytest.importorskip("onnxruntime")

F32, BF = TensorProto.FLOAT, TensorProto.BFLOAT16


def make(graph, tmp_path):
    return Session(str(save(graph, tmp_path / "m.onnx")), "cpu", CPU_ID)


def test_states_its_inputs_and_outputs(tmp_path):
    graph = conv3d(dims=[1, 2, "T", None, 8])
    graph.graph.input.append(helper.make_tensor_value_info("w", F32, [3, 2, 3, 3, 3]))
    session = make(graph, tmp_path)
    assert session.inputs == (TensorInfo("x", "tensor(float)", (1, 2, "T", None, 8)),)
    assert [output.name for output in session.outputs] == ["y"]
    assert (session.provider, session.provider_id) == ("cpu", CPU_ID)
    assert session.description.startswith("onnxruntime ")
    assert session.description.endswith(" CPUExecutionProvider")


def test_on_the_cpu_no_more_is_held_than_needed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "return_freed_memory", lambda: asked.append(True))
    options = make(conv3d(), tmp_path)._session.get_session_options()
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (True, False)
    assert not options.enable_mem_reuse
    assert asked == [True]
    without = module._options(SessionSettings(arena=False), CPU_ID)
    assert (without.enable_cpu_mem_arena, without.enable_mem_reuse) == (False, True)


def test_takes_a_serialized_model():
    session = Session(conv3d().SerializeToString(), "cpu", CPU_ID)
    assert session.run({"x": np.zeros((1, 2, 3, 6, 8), np.float32)})["y"].shape == (1, 3, 3, 6, 8)


def swap(elem_type):
    """Two inputs, two outputs: y is b, z is a."""
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("b", "y"), ("a", "z"))]
    ends = [[(name, elem_type, ["N", 2]) for name in names] for names in ("ab", "yz")]
    return model(nodes, *ends)


@pytest.mark.parametrize(
    ("elem_type", "dtype"),
    [
        (F32, np.float32),
        (BF, ml_dtypes.bfloat16),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.INT64, np.int64),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_every_type_goes_in_and_comes_out(tmp_path, elem_type, dtype):
    session = make(swap(elem_type), tmp_path)
    a, b = (np.arange(6).reshape(3, 2) + k for k in (0, 10))
    outputs = session.run({"b": b.astype(dtype).T.copy().T, "a": a.astype(dtype)})
    assert list(outputs) == ["y", "z"]
    for name, expected in (("y", b), ("z", a)):
        assert outputs[name].dtype == dtype
        np.testing.assert_array_equal(outputs[name], expected.astype(dtype))


def test_bfloat16_outputs_live_on_and_may_be_empty(tmp_path):
    session = make(swap(BF), tmp_path)
    ones = np.ones((500, 2), ml_dtypes.bfloat16)
    kept = session.run({"a": ones, "b": ones})["y"]
    for _ in range(5):
        session.run({"a": ones * 2, "b": ones * 2})
    assert (kept == 1).all()
    empty = np.zeros((0, 2), ml_dtypes.bfloat16)
    assert session.run({"a": empty, "b": empty})["y"].shape == (0, 2)


def test_bfloat16_beside_another_type(tmp_path):
    graph = model(
        [helper.make_node("Cast", ["x"], ["y"], to=F32)], [("x", BF, [2])], [("y", F32, [2])]
    )
    outputs = make(graph, tmp_path).run({"x": np.array([1.5, -2], ml_dtypes.bfloat16)})
    assert outputs["y"].tolist() == [1.5, -2.0]
    assert outputs["y"].dtype == np.float32


def test_a_missing_kernel_is_told_apart(tmp_path):
    with pytest.raises(NotSupportedError, match=r"m\.onnx cannot be loaded .*for Conv\(11\)"):
        make(conv3d(TensorProto.DOUBLE), tmp_path)


def test_a_newer_file_format_is_told_apart(tmp_path):
    graph = conv3d()
    graph.ir_version = 1000
    with pytest.raises(NotSupportedError, match=r"m\.onnx failed: Unsupported model IR version"):
        make(graph, tmp_path)


def test_a_broken_graph_is_a_sentence(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"m\.onnx cannot be loaded by onnxruntime on CPUEx") as e:
        Session(str(path), "cpu", CPU_ID)
    assert not isinstance(e.value, NotSupportedError)


def test_a_feed_that_does_not_fit_is_a_run_error(tmp_path):
    session = make(conv3d(), tmp_path)
    for feed in ({}, {"x": np.zeros((1, 9, 3, 6, 8), np.float32)}, {"x": np.zeros(3)}):
        with pytest.raises(RunError, match=r"m\.onnx does not run on CPUExecutionProvider: "):
            session.run(feed)


class FakeRuntime:
    """An onnxruntime whose sessions land where they are told."""

    def __init__(self, landing):
        self.made = []
        self.entries = {}
        self.landing = landing
        self.options = {}
        self.placed = []
        self.__version__ = "9.9"

    def SessionOptions(self):  # noqa: N802
        return SimpleNamespace(add_session_config_entry=self.entries.__setitem__)

    def InferenceSession(self, model, options, providers, enable_fallback):  # noqa: N802
        self.made.append((providers, enable_fallback, options.log_severity_level))
        return SimpleNamespace(
            get_providers=lambda: self.landing,
            get_inputs=list,
            get_outputs=list,
            get_provider_graph_assignment_info=lambda: self.placed,
            get_provider_options=lambda: self.options,
        )

    InferenceSession.get_provider_graph_assignment_info = None  # It tells who runs what.


def test_a_silent_fallback_is_an_error(monkeypatch):
    fake = FakeRuntime([CPU_ID])
    monkeypatch.setattr(module, "onnxruntime", lambda: fake)
    with pytest.raises(UserError, match=r"a\.onnx was to run on ROCMEx.* fell back to CPUEx"):
        Session("a.onnx", "rocm", "ROCMExecutionProvider")


def test_the_cpu_may_take_what_the_provider_does_not(monkeypatch):
    fake = FakeRuntime(["ROCMExecutionProvider", CPU_ID])
    monkeypatch.setattr(module, "onnxruntime", lambda: fake)
    Session("a.onnx", "rocm", "ROCMExecutionProvider")
    # No retry by the Python layer, errors only in the log, and no spinning threads.
    assert fake.made == [(["ROCMExecutionProvider", CPU_ID], 0, 3)]
    assert fake.entries == {"session.intra_op.allow_spinning": "0", RECORD: "1"}
    fake.landing = [CPU_ID]
    Session("a.onnx", "cpu", CPU_ID)
    assert fake.made[1][0] == [CPU_ID]


def test_an_option_that_the_provider_ignores_without_a_word_is_an_error(monkeypatch):
    fake = FakeRuntime(["ROCMExecutionProvider", CPU_ID])
    fake.options = {"ROCMExecutionProvider": {"device_id": "1"}}
    monkeypatch.setattr(module, "onnxruntime", lambda: fake)
    Session("a.onnx", "rocm", "ROCMExecutionProvider", SessionSettings({"device_id": "1"}))
    asked, cpu = fake.made[0][0]
    assert (asked, cpu) == (("ROCMExecutionProvider", {"device_id": "1"}), CPU_ID)
    with pytest.raises(UserError, match="ROCMExecutionProvider has no option 'devise_id'"):
        Session("a.onnx", "rocm", "ROCMExecutionProvider", SessionSettings({"devise_id": "1"}))


def test_a_strict_session_names_what_would_run_elsewhere(monkeypatch):
    fake = FakeRuntime(["ROCMExecutionProvider", CPU_ID])
    monkeypatch.setattr(module, "onnxruntime", lambda: fake)
    strict = SessionSettings(strict=True)

    def part(provider, *nodes):
        found = [SimpleNamespace(op_type=op, name=name) for op, name in nodes]
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: found)

    fake.placed = [part("ROCMExecutionProvider", ("Conv", "a"))]
    Session("a.onnx", "rocm", "ROCMExecutionProvider", strict)
    fake.placed.append(part(CPU_ID, *(("Conv", f"n{i}") for i in range(5))))
    with pytest.raises(UserError) as caught:
        Session("a.onnx", "rocm", "ROCMExecutionProvider", strict)
    assert str(caught.value) == (
        "--strict-provider: a.onnx does not run on ROCMExecutionProvider alone: Conv (n0), "
        "Conv (n1), Conv (n2) and 2 more would not; check-vae says why."
    )
    session = Session("a.onnx", "rocm", "ROCMExecutionProvider")
    assert session.description == (
        "onnxruntime 9.9 ROCMExecutionProvider 1/6 nodes, CPUExecutionProvider 5: Conv"
    )


def test_without_onnxruntime_the_extras_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError) as caught:
        onnxruntime()
    assert all(extra in str(caught.value) for extra in ("[cpu]", "rocm", "migraphx", "cuda"))


def test_leftovers_of_an_uninstall_are_not_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(UserError, match="onnxruntime is not installed"):
        onnxruntime()


def test_a_broken_onnxruntime_tells_what_it_lacks(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"installed but cannot be imported: .*a_module_that_is_n"):
        onnxruntime()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("plain\nsecond", "plain"),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no Conv", "NOT_IMPLEMENTED: no Conv"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /src/model.cc:256 onnxruntime::Model::Model(A&&) Bad",
            "FAIL: Bad",
        ),
        ("/s/p.cc:1 f() [ONNXRuntimeError] : 1 : FAIL : Failed to load", "FAIL: Failed to load"),
        ("", "ValueError"),
        ("x" * 1000, "x" * 400),
    ],
)
def test_first_line(message, expected):
    assert first_line(ValueError(message)) == expected
