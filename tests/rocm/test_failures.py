"""The ways in which AMD's packages fail without saying so, each answered by a sentence, or avoided.

Each is brought about with the real package and stand-ins for the GPU's libraries.
"""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from converter import convert
from tests.rocm.asking import ask
from tests.small_models import conv3d, draw, model, save, value

pytestmark = pytest.mark.rocm

N = helper.make_node

MAKE_SESSION = """
import json, os, sys
from converter.errors import UserError
from converter.providers import make_session
from converter.session import NotSupportedError, SessionSettings
path, provider, options, strict = json.load(sys.stdin)
try:
    session = make_session(path, provider, SessionSettings(options, strict))
    print(json.dumps({"description": session.description}), flush=True)
except NotSupportedError as error:
    print(json.dumps({"not_supported": str(error)}), flush=True)
except UserError as error:
    print(json.dumps({"error": str(error)}), flush=True)
os._exit(0)
"""


def make_session(machine, path, provider, options=None, strict=False, libraries=True):
    """What converter.providers.make_session answers on that machine, with what it printed."""
    request = json.dumps([str(path), provider, options or {}, strict])
    done = machine.run(["-c", MAKE_SESSION], request, libraries)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # And nothing else is on standard output.


def relu(path, opset=18):
    nodes = [N("Relu", ["x"], ["y"], name="relu")]
    return save(model(nodes, [value("x", [4])], [value("y", [None])], opset=opset), path)


def conv2d(path, elem_type=TensorProto.FLOAT, opset=18):
    w = draw((4, 4, 3, 3)).astype(helper.tensor_dtype_to_np_dtype(elem_type))
    graph = model(
        [N("Conv", ["x", "w"], ["y"], name="conv")],
        [value("x", [1, 4, 8, 8], elem_type)],
        [value("y", [None] * 4, elem_type)],
        [from_array(w, "w")],
        opset=opset,
    )
    return save(graph, path)


def test_it_works_where_nothing_is_missing(rocm, migraphx, tmp_path):
    found = make_session(rocm, relu(tmp_path / "m.onnx"), "rocm", strict=True)
    assert found == {"description": "onnxruntime 1.22.2 ROCMExecutionProvider 1/1 nodes"}
    found = make_session(migraphx, relu(tmp_path / "m.onnx"), "migraphx", strict=True)
    assert found == {"description": "onnxruntime 1.27.1 MIGraphXExecutionProvider 1/1 nodes"}


def test_a_missing_library_is_named(rocm, migraphx, tmp_path):
    path = relu(tmp_path / "m.onnx")
    found = make_session(rocm, path, "rocm", libraries=False)
    assert found == {
        "error": "rocm: ROCMExecutionProvider cannot load libhipblas.so.3; install it."
    }
    found = make_session(migraphx, path, "migraphx", libraries=False)
    assert found == {
        "error": "migraphx: MIGraphXExecutionProvider cannot load libmigraphx_c.so.3; install it."
    }
    assert (
        "CPUExecutionProvider" in make_session(rocm, path, "auto", libraries=False)["description"]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nonsense": "1"}, "--provider-option: {id} has no option 'nonsense'."),
        ({"device_id": "5"}, "--provider-option: {id} does not take device_id=5: Invalid device"),
    ],
)
def test_an_option_that_would_send_all_to_the_cpu_is_an_error(rocm, tmp_path, options, said):
    found = make_session(rocm, relu(tmp_path / "m.onnx"), "rocm", options)
    assert found["error"].startswith(said.format(id="ROCMExecutionProvider"))


def test_an_unknown_option_of_migraphx(migraphx, tmp_path):
    path = relu(tmp_path / "m.onnx")
    found = make_session(migraphx, path, "migraphx", {"nonsense": "1"})
    assert found == {
        "error": "--provider-option: MIGraphXExecutionProvider has no option 'nonsense'."
    }
    assert "description" in make_session(migraphx, path, "migraphx", {"migraphx_bf16_enable": "1"})


def test_conv_at_opset_22_falls_to_the_cpu_and_is_told(rocm, tmp_path):
    path = conv2d(tmp_path / "m.onnx", opset=22)
    found = make_session(rocm, path, "rocm")
    assert found["description"] == (
        "onnxruntime 1.22.2 ROCMExecutionProvider 0/1 nodes, CPUExecutionProvider 1"
    )
    found = make_session(rocm, path, "rocm", strict=True)
    assert found["error"].startswith("--strict-provider: ")
    assert "does not run on ROCMExecutionProvider alone" in found["error"]


def test_a_reshape_of_the_video_is_no_shape_arithmetic(rocm, tmp_path):
    """From opset 21 on it falls to the CPU, and would do so in the middle of the decoder."""
    nodes = [
        N("Relu", ["x"], ["r"], name="relu"),
        N("Reshape", ["r", "flat"], ["v"], name="reshape"),
        N("Relu", ["v"], ["y"], name="last"),
    ]
    flat = from_array(np.array([0, -1]), "flat")
    graph = model(nodes, [value("x", ["N", 4, 4])], [value("y", [None] * 2)], [flat], opset=21)
    path = save(graph, tmp_path / "m.onnx")
    found = make_session(rocm, path, "rocm")
    # Two of its four copy to the CPU and back.
    assert found["description"].endswith("4/5 nodes, CPUExecutionProvider 1: Reshape")
    found = make_session(rocm, path, "rocm", strict=True)
    assert "ROCMExecutionProvider alone: Reshape (reshape) would not" in found["error"]


def test_shape_arithmetic_may_be_elsewhere_in_a_strict_session(rocm, tmp_path):
    nodes = [
        N("Shape", ["x"], ["s"], name="shape"),
        N("Max", ["s", "one"], ["t"], name="max"),
        N("Reshape", ["x", "t"], ["y"], name="reshape"),
    ]
    one = from_array(np.array([1]), "one")
    graph = model(nodes, [value("x", ["N", 4, "H"])], [value("y", [None] * 3)], [one])
    found = make_session(rocm, save(graph, tmp_path / "m.onnx"), "rocm", strict=True)
    assert found["description"].endswith("CPUExecutionProvider 1: Max")


def test_for_its_target_the_same_graph_is_brought_to_18(rocm, tmp_path):
    source = save(conv3d(opset=22), tmp_path / "m.onnx")
    convert(source, tmp_path / "out.onnx", target="rocm", validate=False)
    found = make_session(rocm, tmp_path / "out.onnx", "rocm", strict=True)
    assert "CPU" not in found["description"]


def test_an_opset_that_the_release_does_not_know(rocm, tmp_path):
    found = make_session(rocm, relu(tmp_path / "m.onnx", opset=23), "rocm")
    assert "under development" in found["not_supported"]


def test_a_bfloat16_conv_is_answered_and_avoided(rocm, tmp_path):
    path = conv2d(tmp_path / "m.onnx", TensorProto.BFLOAT16, opset=22)
    found = make_session(rocm, path, "rocm")
    assert "Could not find an implementation for Conv(22)" in found["not_supported"]
    assert "check-vae" in found["not_supported"]
    source = save(conv3d(), tmp_path / "fp32.onnx")
    convert(source, tmp_path / "bf16.onnx", target="rocm", precision="bf16", validate=False)
    found = make_session(rocm, tmp_path / "bf16.onnx", "rocm", strict=True)
    assert "CPU" not in found["description"]


def test_a_graph_in_bfloat16_runs_on_rocm_between_casts(rocm, tmp_path):
    bf16 = TensorProto.BFLOAT16
    w = draw((4, 4, 3, 3, 3)).astype(helper.tensor_dtype_to_np_dtype(bf16))
    nodes = [
        N("Pad", ["x", "pads"], ["p"], name="pad", mode="reflect"),
        N("Conv", ["p", "w"], ["c"], name="conv", pads=[1] * 6),
        N("Sigmoid", ["c"], ["s"], name="sigmoid"),
        N("Mul", ["c", "s"], ["y"], name="mul"),
    ]
    pads = np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 0], np.int64)
    dims = [1, 4, 3, 6, 8]
    graph = model(
        nodes,
        [value("x", dims, bf16)],
        [value("y", [None] * 5, bf16)],
        [from_array(w, "w"), from_array(pads, "pads")],
        opset=22,
    )
    source = save(graph, tmp_path / "m.onnx")
    out = tmp_path / "out.onnx"
    assert "not_supported" in make_session(rocm, source, "rocm")
    result = convert(source, out, target="rocm", validate=False)
    assert result.placement.complete
    [found] = ask(rocm, [out], optimize=True, strict=True)
    assert (found.get("error"), found["elsewhere"]) == (None, [])


def silu(path):
    """Sigmoid and Mul in bfloat16, which onnxruntime fuses into a QuickGelu without a kernel."""
    bf16 = TensorProto.BFLOAT16
    nodes = [
        N("Cast", ["x"], ["b"], name="cast", to=bf16),
        N("Sigmoid", ["b"], ["s"], name="sigmoid"),
        N("Mul", ["b", "s"], ["m"], name="mul"),
        N("Cast", ["m"], ["y"], name="back", to=TensorProto.FLOAT),
    ]
    return save(model(nodes, [value("x", [4, 4])], [value("y", [None] * 2)]), path)


def test_the_quick_gelu_trap_is_there_and_avoided(rocm, tmp_path):
    path = silu(tmp_path / "m.onnx")
    [raw] = ask(rocm, [path], optimize=True)
    assert "QuickGelu" in raw["error"]
    found = make_session(rocm, path, "rocm", strict=True)
    assert found == {"description": "onnxruntime 1.22.2 ROCMExecutionProvider 4/4 nodes"}


def test_a_lowered_graph_does_not_step_into_it_even_in_a_plain_session(rocm, tmp_path):
    nodes = [
        N("Conv", ["x", "w"], ["h"], name="conv"),
        N("Sigmoid", ["h"], ["s"], name="sigmoid"),
        N("Mul", ["h", "s"], ["y"], name="mul"),
    ]
    graph = model(
        nodes,
        [value("x", [1, 4, 8, 8])],
        [value("y", [None] * 4)],
        [from_array(draw((4, 4, 3, 3)), "w")],
    )
    source = save(graph, tmp_path / "m.onnx")
    out = tmp_path / "out.onnx"
    convert(source, out, target="rocm", precision="bf16", precision_scope="all", validate=False)
    assert TensorProto.BFLOAT16 in {
        a.i for n in onnx.load(out).graph.node for a in n.attribute if a.name == "to"
    }
    [found] = ask(rocm, [out], optimize=True, strict=True, run=True)
    assert found.get("error") is None
    assert found["elsewhere"] == []
    assert found["outputs"] == [[1, 4, 6, 6]]
