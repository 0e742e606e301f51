import json

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper
from onnx.numpy_helper import from_array

from converter.cli.check_vae import main
from converter.kernels import GENERIC, TARGETS
from tests.small_models import model, save, value


@pytest.fixture
def path(tmp_path):
    def make(opset):
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
        inputs = [value("x", [1, 4, 8, 8]), value("w", [4, 4, 3, 3])]
        return save(
            model(nodes, inputs, [value("y", [None] * 4)], opset=opset), tmp_path / "m.onnx"
        )

    return make


def check(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(("opset", "code"), [(18, 0), (22, 1)])
def test_the_exit_code_says_whether_all_is_placed(path, opset, code):
    result = check(path(opset), "--target", "rocm")
    assert result.exit_code == code
    assert f"{1 - code} of 1 nodes on ROCMExecutionProvider" in result.output


def test_the_reason_and_the_remedy_are_printed(path):
    output = " ".join(check(path(22), "--target", "rocm").output.split())
    assert "has Conv up to opset 21, and this is the version of opset 22" in output
    assert (
        "convert-vae --target rocm brings the graph to opset 18, where nothing would fall to the "
        "CPU" in output
    )


def test_a_remedy_beyond_the_opset_is_named(tmp_path):
    nodes = [helper.make_node("Pad", ["x", "pads"], ["y"], name="pad", mode="edge")]
    pads = from_array(np.array([0, 0, 1, 0, 0, 0, 1, 0]), "pads")
    graph = model(nodes, [value("x", [1, 4, 8, 8])], [value("y", [None] * 4)], [pads])
    result = check(save(graph, tmp_path / "m.onnx"), "--target", "migraphx")
    assert result.exit_code == 1
    output = " ".join(result.output.split())
    assert "does not take Pad with mode=edge" in output
    assert "where nothing would fall to the CPU (1 Pad of mode edge is spelled out by" in output


def test_json(path):
    result = check(path(22), "--target", "rocm", "--json")
    report = json.loads(result.output)
    assert result.exit_code == 1
    assert [f["node"] for f in report["fallbacks"]] == ["conv"]


@pytest.mark.parametrize("target", [t for t in TARGETS if t != GENERIC])
def test_every_target_can_be_asked(path, target):
    assert check(path(18), "--target", target).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.onnx", "--target", "rocm"], "error: missing.onnx does not exist."),
        (["missing.onnx"], "Missing option '--target'"),
        (["missing.onnx", "--target", "tpu"], "'tpu' is not one of"),
    ],
)
def test_bad_usage_is_2(arguments, said):
    result = check(*arguments)
    assert result.exit_code == 2
    assert said in result.output
