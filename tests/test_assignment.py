import os

import pytest
from onnx import helper

from converter import assignment as module
from converter.assignment import read_log, record
from tests.small_models import model, value

ROCM, CPU = "ROCMExecutionProvider", "CPUExecutionProvider"
HEAD = "2026-01-01 00:00:00.1 [V:onnxruntime:, session_state.cc:12 VerifyEachNodeIsAssignedToAnEp] "
# As onnxruntime 1.22 words it.
MIXED = "\n".join(
    HEAD + line
    for line in (
        "Node placements",
        f" Node(s) placed on [{CPU}]. Number of nodes: 2",
        "  Concat (a/b)",
        "  Gather ()",
        f" Node(s) placed on [{ROCM}]. Number of nodes: 1",
        "  Conv (node (1))\x1b[m",
    )
)


def test_a_log_of_two_providers():
    found = read_log("noise\n" + MIXED + "\nnoise (x)", ROCM)
    assert found.counts == {ROCM: 1, CPU: 2}
    assert list(found.counts) == [ROCM, CPU]
    assert found.nodes[ROCM] == (("Conv", "node (1)"),)
    assert found.elsewhere == (("Concat", "a/b"), ("Gather", ""))
    assert found.total == 3
    assert found.sentence() == f"{ROCM} 1/3 nodes, {CPU} 2: Concat, Gather"


@pytest.mark.parametrize(("landed", "elsewhere"), [(ROCM, ()), (CPU, (("?", "?"),) * 7)])
def test_a_log_of_one_provider_has_no_names(landed, elsewhere):
    line = f"{HEAD} All nodes placed on [{landed}]. Number of nodes: 7"
    found = read_log(line, ROCM)
    assert found.counts == ({ROCM: 7} if landed == ROCM else {ROCM: 0, CPU: 7})
    assert found.elsewhere == elsewhere
    assert found.sentence() == (
        f"{ROCM} 7/7 nodes" if not elsewhere else f"{ROCM} 0/7 nodes, {CPU} 7"
    )


@pytest.mark.parametrize("tells", [True, False])
def test_a_real_session_is_counted_either_way(capfd, tells):
    ort = pytest.importorskip("onnxruntime")
    graph = model(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Conv", ["r", "x"], ["y"])],
        [value("x", [1, 1, 4, 4])],
        [value("y", [None] * 4)],
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session, found = record(
        ort.InferenceSession if tells else object,
        options,
        lambda o: ort.InferenceSession(graph.SerializeToString(), o, providers=[CPU]),
    )
    assert session.get_providers() == [CPU]
    assert found.counts == {CPU: 2}
    assert found.elsewhere == ()
    assert options.log_severity_level == 3
    assert capfd.readouterr().err == ""


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else set()


def test_standard_error_comes_back_after_a_failure(capfd):
    open_before = open_files()
    with pytest.raises(ValueError, match="no"), module._diverted_stderr():
        raise ValueError("no")
    os.write(2, b"back\n")
    assert capfd.readouterr().err == "back\n"
    assert open_files() <= open_before  # other threads may have closed some
