import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from converter.cli.convert_vae import PHASES, main
from converter.rewrites import BY_NAME, taps
from converter.version import VERSION
from tests import small_models
from tests.cli.command import HERE, assert_refused, convert_vae, process
from tests.execute import conv3d_left
from tests.patience import PATIENCE
from tests.small_models import files, save


@pytest.fixture
def source(tmp_path) -> Path:
    return save(small_models.two_conv3d(), tmp_path / "in.onnx")


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out.onnx"


def as_json(*arguments: object) -> dict:
    done = convert_vae(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def table(text: str) -> dict[str, list[str]]:
    """First word of each line -> the others."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


# --- what is printed ----------------------------------------------------------------------------


def test_every_option_has_a_help_text():
    for parameter in main.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
    assert main.help
    for flag in ("-h", "--help"):
        done = convert_vae(flag)
        assert done.exit_code == 0
        assert "Exit code" in done.stdout
        for name in BY_NAME:
            assert name in done.stdout


def test_the_version_is_told():
    assert convert_vae("--version").stdout.endswith(f"version {VERSION}\n")


def test_a_conversion_ends_with_the_figures_and_the_verdict(source, output):
    done = convert_vae(source, output, "--strategy", "unfold")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = table(done.stdout)
    assert rows["Conv3D"] == ["2", "0"]
    assert rows["nodes"] == ["3", str(len(onnx.load(output).graph.node))]
    assert rows["Conv"] == ["2", "2"]
    assert rows["parameters"] == ["864", "864"]
    assert rows["opset"] == ["18", "18"]
    assert rows["file"][0] == "size"
    for phase in ("load", "plan", "rewrite", "save", "validate"):
        assert f"{phase} 0." in done.stdout
    assert "validation: equal within tolerance: PSNR" in done.stdout
    assert done.stdout.splitlines()[-1] == f"written: {output}"
    assert "Conv3D" not in done.stdout.splitlines()[0]  # The plan is printed with -v alone.


def test_verbose_prints_the_plan_too(source, output):
    done = convert_vae(source, output, "-v", "--pin", "second=keep")
    rows = table(done.stdout)
    assert rows["first"][:4] == ["1x4x3x6x8", "4x4x3x3x3", "k3", "p1,1,1"]
    assert rows["second"][4:] == ["keep", "pinned"]


def test_quiet_prints_nothing_but_notes(source, output):
    done = convert_vae(source, output, "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    done = convert_vae(source, output, "-q", "--overwrite", "--pin", "first=temporal")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("note: left as it was: first: temporal needs")


def test_json_is_all_that_is_printed(source, output):
    data = as_json(source, output)
    assert data["written"] is True
    assert data["validation"]["passed"] is True


def test_a_dry_run_prints_a_line_for_each_conv3d_and_writes_nothing(source, output):
    done = convert_vae(source, "--dry-run", "--strategy", "taps", "--pin", "second=temporal")
    rows = table(done.stdout)
    assert rows["first"] == ["1x4x3x6x8", "4x4x3x3x3", "k3", "p1,1,1", "taps", "asked", "for"]
    assert rows["second"][4:8] == ["refused", "temporal", "needs", "a"]
    assert "written" not in done.stdout
    assert convert_vae(source, output, "--dry-run").exit_code == 0
    assert sorted(files(source.parent)) == ["in.onnx"]


def test_lines_are_not_wrapped_when_piped(tmp_path):
    proto = small_models.conv3d()
    proto.graph.node[0].name = "decoder/" + "very_long_block_name/" * 3 + "conv"
    done = process(save(proto, tmp_path / "in.onnx"), "--dry-run")
    assert f" {proto.graph.node[0].name} " in done.stdout
    assert "\x1b" not in done.stdout


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["unfold", "taps", "keep"])
def test_strategy(source, output, strategy):
    data = as_json(source, output, "--strategy", strategy)
    assert [e["strategy"] for e in data["plan"]["conv3d"]] == [strategy] * 2
    assert data["conv3d_left"] == (2 if strategy == "keep" else 0)


def test_pins_are_taken_in_the_order_given(source, output):
    pins = ["--pin", "first=keep", "--pin", "*=unfold", "--pin", "first=taps"]
    data = as_json(source, output, *pins)
    assert [e["strategy"] for e in data["plan"]["conv3d"]] == ["taps", "unfold"]


def test_a_saved_plan_is_replayed_and_pins_win_over_it(source, output, tmp_path):
    plan = tmp_path / "plan.json"
    as_json(source, output, "--pin", "first=taps", "--pin", "second=keep", "--plan-out", plan)
    again = as_json(source, tmp_path / "b.onnx", "--plan-in", plan)
    assert [e["strategy"] for e in again["plan"]["conv3d"]] == ["taps", "keep"]
    pinned = as_json(source, tmp_path / "c.onnx", "--plan-in", plan, "--pin", "*=unfold")
    assert [e["strategy"] for e in pinned["plan"]["conv3d"]] == ["unfold", "unfold"]
    one = as_json(
        source, tmp_path / "d.onnx", "--plan-in", plan, "--pin", "*=unfold", "--pin", "first=keep"
    )
    assert [e["strategy"] for e in one["plan"]["conv3d"]] == ["keep", "unfold"]


def test_a_dry_run_saves_a_plan_too(source, tmp_path):
    plan = tmp_path / "plan.json"
    done = convert_vae(source, "--dry-run", "--plan-out", plan)
    assert done.exit_code == 0
    assert json.loads(plan.read_text())["version"] == 1


def test_a_plan_is_replaced_only_if_asked_and_is_not_the_model(source, output, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text("mine")
    before = files(tmp_path)
    assert_refused(convert_vae(source, output, "--plan-out", plan), "--overwrite")
    for model in (source, output, tmp_path / "." / "in.onnx"):
        done = convert_vae(source, output, "--plan-out", model, "--overwrite")
        assert_refused(done, "is the model itself")
    assert files(tmp_path) == before
    done = convert_vae(source, output, "--plan-out", plan, "--overwrite")
    assert done.exit_code == 0
    assert "conv3d" in plan.read_text()


def test_opset(source, output):
    assert as_json(source, output, "--opset", 20)["after"]["opset"] == 20


def test_a_file_of_weights_is_named_where_there_is_one(source, output):
    assert as_json(source, output)["after"]["data_file"] == ""
    done = convert_vae(source, output, "--external-data", "always", "--overwrite")
    assert done.stdout.splitlines()[-1] == f"written: {output}, its weights out.onnx.data"
    again = as_json(source, output, "--external-data", "always", "--overwrite")
    assert again["after"]["data_file"] == "out.onnx.1.data"
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "in.onnx",
        "out.onnx",
        "out.onnx.1.data",
    ]


def test_memory_growth_reaches_the_plan(source, output):
    """Weights of kilobytes may grow by 25 % of a process, but not by nothing."""
    pin = ("--pin", "*=winograd2", "--dry-run")
    free, none = (
        as_json(source, output, "--memory-growth", percent, "--dry-run") for percent in ("inf", "0")
    )
    assert not [e for e in none["plan"]["conv3d"] if e["strategy"].startswith("winograd")]
    assert [e["given_up_for"] for e in free["plan"]["conv3d"]] == [""] * 2
    asked = as_json(source, output, "--memory-growth", "0", *pin)
    assert [e["tiles"] for e in asked["plan"]["conv3d"] if e["strategy"] == "winograd2"]
    for wrong in ("-1", "much", "nan"):
        done = convert_vae(source, output, "--memory-growth", wrong)
        assert done.exit_code == 2
        assert "Invalid value for '--memory-growth'" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize("wish", ["auto", "always", "never"])
def test_external_data(source, output, wish):
    as_json(source, output, "--external-data", wish)
    assert Path(f"{output}.data").exists() is (wish == "always")


def test_no_validate(source, output):
    assert as_json(source, output, "--no-validate")["validation"] is None


def test_shape_seed_and_provider(tmp_path, output):
    source = save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), tmp_path / "in.onnx")
    arguments = ["--shape", "x=2x4x3x6x8", "--seed", 5, "--provider", "cpu"]
    validation = as_json(source, output, *arguments)["validation"]
    assert validation["feed_shapes"] == {"x": [2, 4, 3, 6, 8]}
    assert validation["seed"] == 5
    assert validation["provider"] == "cpu"


def test_no_layout(source, output):
    done = as_json(source, output, "--no-layout")
    assert (
        json.loads(
            next(
                p.value for p in onnx.load(output).metadata_props if p.key == "convert_vae.options"
            )
        )["layout"]
        is False
    )
    assert done["conv3d_left"] == 0


def test_strict(source, output):
    assert convert_vae(source, output, "--strict").exit_code == 0
    done = convert_vae(source, output, "--strict", "--overwrite", "--pin", "first=temporal")
    assert_refused(done, "--strict: first would stay a Conv3D")


def test_overwrite_in_place(source):
    assert convert_vae(source, source, "--overwrite").exit_code == 0
    assert conv3d_left(onnx.load(source)) == []


# --- exit code 1 --------------------------------------------------------------------------------


@pytest.fixture
def sabotaged(monkeypatch) -> None:
    right = taps._weight
    monkeypatch.setattr(taps, "_weight", lambda conv, emit, k: right(conv, emit, 0))


@pytest.mark.usefixtures("sabotaged")
def test_different_numbers_are_exit_code_1_and_the_least_tolerance_is_told(source, output):
    done = convert_vae(source, output, "--strategy", "taps")
    assert done.exit_code == 1
    assert "validation: different: output y: " in done.stdout
    assert "would have passed" in done.stdout
    assert f"not written: {output} (--keep-invalid" in done.stdout
    assert sorted(files(source.parent)) == ["in.onnx"]


@pytest.mark.usefixtures("sabotaged")
def test_quiet_says_what_differs(source, output):
    done = convert_vae(source, output, "--strategy", "taps", "-q")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("different: output y: ")


@pytest.mark.usefixtures("sabotaged")
def test_keep_invalid(source, output):
    done = convert_vae(source, output, "--strategy", "taps", "--keep-invalid", "--json")
    assert done.exit_code == 1
    data = json.loads(done.stdout)
    assert data["written"] is True
    assert data["validation"]["passed"] is False
    assert output.exists()


# --- the shell ----------------------------------------------------------------------------------


def test_the_command_runs_as_a_module(source, output):
    done = process(source, output)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"written: {output}\n")


def test_a_reader_that_leaves_changes_neither_the_work_nor_the_exit_code(source, output):
    for option in ("-v", "--json"):
        arguments = [source, output, option, "--overwrite"]
        child = subprocess.Popen(
            [sys.executable, "-m", "converter.cli.convert_vae", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=HERE,
        )
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(PATIENCE) == 0
        assert conv3d_left(onnx.load(output)) == []


def test_a_terminal_sees_the_phases(source, output):
    """Under a pseudo-terminal, whose output is what a person sees."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "converter.cli.convert_vae", source, output],
        stdout=subprocess.PIPE,
        stderr=follower,
        cwd=HERE,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    out, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0
    assert b"written:" in out
    phases = [*PHASES.values(), "running the original graph", "comparing"]
    assert any(phase.encode() in seen for phase in phases)  # a fast machine shows the last alone
