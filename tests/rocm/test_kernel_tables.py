"""The tables in the package are what the released packages register, read anew."""

from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

import pytest

from tests.rocm.machine import ROOT

SCRIPT = str(ROOT / "scripts" / "kernel_table.py")


def shipped(target):
    return files("converter").joinpath("data", f"{target}.json").read_text(encoding="utf-8")


@pytest.mark.rocm
def test_the_rocm_table(rocm, tmp_path):
    path = tmp_path / "rocm.json"
    done = rocm.run([SCRIPT, rocm.provider, "onnxruntime-rocm", str(path)])
    assert done.returncode == 0, done.stderr
    assert path.read_text(encoding="utf-8") == shipped("rocm")


def test_the_cpu_table(tmp_path):
    pytest.importorskip("onnxruntime")
    try:
        release = version("onnxruntime")
    except PackageNotFoundError:
        pytest.skip("another flavour of onnxruntime is installed")
    table = shipped("cpu")
    if f"onnxruntime {release}" not in table:
        pytest.skip(f"the table is of another release than {release}")
    from scripts import kernel_table

    kernel_table.main("CPUExecutionProvider", "onnxruntime", str(tmp_path / "cpu.json"))
    assert (tmp_path / "cpu.json").read_text(encoding="utf-8") == table
