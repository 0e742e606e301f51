"""The environment switches, in this process and in launchers that know nothing of them."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from converter.eager import install_from_environment, restore_conv3d
from converter.eager.environment import STARTUP_FOLDER, uninstall
from converter.eager.replacement import Conv2dForward
from converter.errors import UserError
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _uninstalled_afterwards():
    yield
    uninstall()


def settings_of(conv):
    """(strategy, type) of what computes the convolution; None if nn.Conv3d does."""
    forward = vars(conv).get("_conv_forward")
    if forward is None:
        return None
    assert isinstance(forward, Conv2dForward)
    return forward.strategy, forward.compute_dtype


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, None),
        ({"CONVERT_VAE_CONV2D": "0"}, None),
        ({"CONVERT_VAE_CONV2D": ""}, None),
        ({"CONVERT_VAE_CONV2D": "off", "CONVERT_VAE_CONV2D_BF16": "0"}, None),
        ({"CONVERT_VAE_CONV2D": "1"}, ("unfold", None)),
        ({"CONVERT_VAE_CONV2D": "True"}, ("unfold", None)),
        ({"CONVERT_VAE_CONV2D": "winograd"}, ("winograd", None)),
        ({"CONVERT_VAE_CONV2D_BF16": "1"}, ("unfold", torch.bfloat16)),
        ({"CONVERT_VAE_CONV2D": "0", "CONVERT_VAE_CONV2D_BF16": "1"}, ("unfold", torch.bfloat16)),
        ({"CONVERT_VAE_CONV2D": "taps", "CONVERT_VAE_CONV2D_BF16": "1"}, ("taps", torch.bfloat16)),
    ],
)
def test_switches(environ, settings):
    before = nn.Conv3d(2, 2, 3)
    assert install_from_environment(environ) is (settings is not None)
    assert settings_of(nn.Conv3d(2, 2, 3)) == settings
    assert settings_of(before) is None


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"CONVERT_VAE_CONV2D": "2"}, "CONVERT_VAE_CONV2D=2 is neither a switch, 1 or 0, nor one"),
        ({"CONVERT_VAE_CONV2D_BF16": "fp8"}, "CONVERT_VAE_CONV2D_BF16=fp8 is not a switch"),
    ],
)
def test_values_that_mean_nothing(environ, sentence):
    with pytest.raises(UserError, match=sentence):
        install_from_environment(environ)
    assert settings_of(nn.Conv3d(2, 2, 3)) is None


def test_last_call_counts():
    init = nn.Conv3d.__init__
    install_from_environment({"CONVERT_VAE_CONV2D": "1"})
    install_from_environment({"CONVERT_VAE_CONV2D": "taps"})
    assert settings_of(nn.Conv3d(2, 2, 3)) == ("taps", None)
    install_from_environment({})
    assert nn.Conv3d.__init__ is init


class OwnConvolution(nn.Conv3d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight.abs(), bias)


class LateConv3d(nn.Conv3d):
    """Changes what its base class was constructed with."""

    def __init__(self):
        super().__init__(2, 2, 3, padding=1)
        self.padding = (0, 1, 1)
        self.stride = (2, 1, 1)


def test_modules_are_judged_as_by_replace_conv3d(caplog):
    install_from_environment({"CONVERT_VAE_CONV2D": "1"})
    assert settings_of(OwnConvolution(2, 2, 3)) is None
    assert "a OwnConvolution keeps its Conv3d: OwnConvolution has a convolution of" in caplog.text
    late = LateConv3d()
    x = torch.randn(1, 2, 7, 5, 5)
    result = late(x)
    assert restore_conv3d(late) == 1
    torch.testing.assert_close(result, late(x))


LAUNCHER = """
import multiprocessing, os, sys

assert "torch" not in sys.modules and "onnx" not in sys.modules
import torch

def kind(path=None):
    conv = torch.nn.Conv3d(2, 2, 3)
    assert conv(torch.zeros(1, 2, 5, 5, 5)).shape == (1, 2, 3, 3, 3)
    return str(getattr(vars(conv).get("_conv_forward"), "strategy", None))

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(kind(), pool.apply(kind), os.environ.get("HIDDEN_SITECUSTOMIZE"))
"""


def launch(tmp_path, code, **switches):
    launcher = tmp_path / "launcher.py"
    launcher.write_text(code)
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "import os\nos.environ['HIDDEN_SITECUSTOMIZE'] = 'ran'\n"
    )
    path = os.pathsep.join(map(str, (STARTUP_FOLDER, other, ROOT)))
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CONVERT_VAE")}
    return subprocess.run(
        [sys.executable, launcher],
        env=environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | switches,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_unedited_launcher_and_its_children(tmp_path):
    run = launch(tmp_path, LAUNCHER, CONVERT_VAE_CONV2D="taps")
    assert (run.returncode, run.stdout, run.stderr) == (0, "taps taps ran\n", "")


def test_nothing_waits_for_torch_where_the_switches_are_unset(tmp_path):
    code = "import os, sys; print(sys.meta_path, os.environ['HIDDEN_SITECUSTOMIZE'])"
    run = launch(tmp_path, code)
    assert (run.returncode, run.stderr) == (0, "")
    assert "AfterTorch" not in run.stdout
    assert run.stdout.endswith(" ran\n")


def test_the_folder_to_put_on_the_path_is_printed(capsys):
    runpy.run_module("converter.eager", run_name="__main__")
    assert capsys.readouterr().out == f"{STARTUP_FOLDER}\n"
    assert (STARTUP_FOLDER / "sitecustomize.py").is_file()
