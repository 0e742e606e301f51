"""Each bad input is one sentence, exit code 2, nothing half-written and INPUT untouched."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from tests import small_models
from tests.cli.command import assert_refused, convert_vae, process
from tests.small_models import VIDEO, files, save, save_external

DATA = "weights.bin"


def inline(folder: Path) -> None:
    save(small_models.two_conv3d(), folder / "in.onnx")


def external(folder: Path) -> None:
    save_external(small_models.two_conv3d(), folder / "in.onnx", DATA)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "in.onnx").write_bytes(data) and None


def located(location: str) -> Callable[[Path], None]:
    """External data under this name; the file is there, in the folder and outside it."""

    def make(folder: Path) -> None:
        proto = small_models.two_conv3d()
        for tensor in proto.graph.initializer:
            data = tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=location)
        save(proto, folder / "in.onnx")
        (folder.parent / DATA).write_bytes(data)
        (folder / "link.bin").symlink_to(folder.parent / DATA)

    return make


def missing(folder: Path) -> None:
    external(folder)
    (folder / DATA).unlink()


def short(folder: Path) -> None:
    external(folder)
    whole = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(whole[:-1])


def invalid(folder: Path) -> None:
    proto = small_models.two_conv3d()
    proto.graph.node[1].input[0] = "nobody"
    save(proto, folder / "in.onnx")


def existing(folder: Path) -> None:
    inline(folder)
    save(small_models.conv2d(), folder / "out.onnx")


def a_folder(folder: Path) -> None:
    inline(folder)
    (folder / "out.onnx").mkdir()


def dynamic(folder: Path) -> None:
    save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), folder / "in.onnx")


def planned(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        inline(folder)
        (folder / "plan.json").write_text(text)

    return make


WHOLE = small_models.two_conv3d().SerializeToString()
OTHER_PLAN = '{"version": 1, "conv3d": [{"node": "gone", "strategy": "taps"}]}'

# name -> (what is in the folder, the arguments, what the sentence says)
BAD = {
    "not there": (lambda folder: None, "in.onnx out.onnx", "in.onnx does not exist"),
    "folder": (lambda folder: (folder / "in.onnx").mkdir(), "in.onnx out.onnx", "is not a file"),
    "zero bytes": (content(b""), "in.onnx out.onnx", "is empty"),
    "not onnx": (content(b"# a read-me\n" * 9), "in.onnx out.onnx", "is not an ONNX file"),
    "png": (content(b"\x89PNG\r\n\x1a\n" + bytes(99)), "in.onnx out.onnx", "is not an ONNX file"),
    "truncated": (content(WHOLE[:-1]), "in.onnx out.onnx", "or is truncated"),
    "half": (content(WHOLE[: len(WHOLE) // 2]), "in.onnx out.onnx", "or is truncated"),
    "missing data": (missing, "in.onnx out.onnx", "weights.bin does not exist"),
    "short data": (short, "in.onnx out.onnx", "is shorter"),
    "data above": (located(f"../{DATA}"), "in.onnx out.onnx", "outside the model's folder"),
    "absolute data": (located("/etc/hosts"), "in.onnx out.onnx", "outside the model's folder"),
    "linked data": (located("link.bin"), "in.onnx out.onnx", "outside the model's folder"),
    "invalid graph": (invalid, "in.onnx out.onnx", "is not a valid ONNX graph"),
    "no output": (inline, "in.onnx", "name an OUTPUT file"),
    "in place": (inline, "in.onnx in.onnx", "in.onnx exists; give --overwrite"),
    "in place, spelled otherwise": (inline, "in.onnx ./in.onnx", "exists; give --overwrite"),
    "existing": (existing, "in.onnx out.onnx", "out.onnx exists; give --overwrite"),
    "output folder": (a_folder, "in.onnx out.onnx --overwrite", "is a folder"),
    "no such folder": (inline, "in.onnx nowhere/out.onnx", "the folder of nowhere/out.onnx does"),
    "file for a folder": (inline, "in.onnx in.onnx/out.onnx", "does not exist"),
    "unknown pin": (inline, "in.onnx out.onnx --pin third=taps", "'third' matches no Conv3D"),
    "unknown strategy": (inline, "in.onnx out.onnx --pin first=fast", "no strategy 'fast'"),
    "no pin": (inline, "in.onnx out.onnx --pin first", "is not of the form NAME=VALUE"),
    "plan missing": (inline, "in.onnx out.onnx --plan-in no.json", "no.json does not exist"),
    "plan of text": (planned("unfold"), "in.onnx out.onnx --plan-in plan.json", "is not JSON"),
    "other plan": (
        planned(OTHER_PLAN),
        "in.onnx out.onnx --plan-in plan.json",
        "matches no Conv3D",
    ),
    "plan is a folder": (inline, "in.onnx out.onnx --plan-in .", "Is a directory"),
    "plan-out nowhere": (
        inline,
        "in.onnx out.onnx --plan-out no/p.json",
        "the folder of no/p.json",
    ),
    "no shape": (dynamic, "in.onnx out.onnx --shape x=1x4", "has rank 2, but"),
    "wrong shape": (dynamic, "in.onnx out.onnx --shape x=1x5x3x6x8", "has 5 on axis 1"),
    "fixed shape": (inline, "in.onnx out.onnx --shape x=1x4x9x6x8", "has 9 on axis 2"),
    "shape of nothing": (dynamic, "in.onnx out.onnx --shape z=1", "--shape names 'z'"),
    "odd shape": (dynamic, "in.onnx out.onnx --shape x=1x4xTx6x8", "is not a shape such as"),
    "future opset": (inline, "in.onnx out.onnx --opset 999", "opset 999 is not known here"),
}


@pytest.mark.parametrize(("make", "arguments", "complaint"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(tmp_path, monkeypatch, make, arguments, complaint):
    folder = tmp_path / "work"
    folder.mkdir()
    make(folder)
    monkeypatch.chdir(folder)
    before = files(tmp_path)
    assert_refused(convert_vae(*arguments.split()), complaint)
    assert files(tmp_path) == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "arguments",
    ["--opset 0", "--seed -1", "--strategy fast", "--external-data no", "--fast", "b c"],
)
def test_wrong_usage_is_exit_code_2(tmp_path, arguments):
    inline(tmp_path)
    done = convert_vae(tmp_path / "in.onnx", *arguments.split())
    assert done.exit_code == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(files(tmp_path)) == ["in.onnx"]


def test_the_same_holds_for_the_real_command(tmp_path):
    inline(tmp_path)
    assert_refused(process(tmp_path / "in.onnx", tmp_path / "in.onnx"), "--overwrite")
    (tmp_path / "bad.onnx").write_bytes(WHOLE[:999])
    assert_refused(process(tmp_path / "bad.onnx", tmp_path / "out.onnx"), "truncated")
    assert sorted(files(tmp_path)) == ["bad.onnx", "in.onnx"]


@pytest.mark.parametrize(
    "option", [[], ["--external-data", "always"], ["--overwrite"]], ids=["new", "data", "replaced"]
)
@pytest.mark.parametrize("room", [1000, 3000])
def test_a_full_disk_leaves_what_was_there(tmp_path, option, room):
    """A limit on the size of files: writing beyond it fails as it does on a full disk."""
    inline(tmp_path)
    if "--overwrite" in option:
        save_external(small_models.conv3d(), tmp_path / "out.onnx", "out.onnx.data")
    before = files(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    arguments = [tmp_path / "in.onnx", tmp_path / "out.onnx", "--no-validate", *option]
    assert_refused(process(*arguments, limits=limit), "File too large; nothing was written")
    assert files(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_plan_that_does_not_fit_on_the_disk(tmp_path):
    inline(tmp_path)
    before = files(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))

    plan = tmp_path / "plan.json"
    done = process(tmp_path / "in.onnx", "--dry-run", "--plan-out", plan, limits=limit)
    assert_refused(done, "the plan could not be saved")
    assert files(tmp_path) == before


UNWRITABLE = Path("/proc")
"""A folder in which not even root may make files."""


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="no /proc")
def test_a_folder_that_cannot_be_written(tmp_path):
    inline(tmp_path)
    done = process(tmp_path / "in.onnx", UNWRITABLE / "out.onnx", "--no-validate")
    assert_refused(done, "nothing was written")
    assert sorted(files(tmp_path)) == ["in.onnx"]


def test_a_folder_without_permission(tmp_path, monkeypatch):
    inline(tmp_path)

    def refuse(**options: object) -> str:
        raise PermissionError(13, "Permission denied", str(options["dir"]))

    monkeypatch.setattr("converter.output_files.tempfile.mkdtemp", refuse)
    done = convert_vae(tmp_path / "in.onnx", tmp_path / "out.onnx", "--no-validate")
    assert_refused(done, f"Permission denied ({tmp_path}); nothing was written")
    assert sorted(files(tmp_path)) == ["in.onnx"]


def test_an_input_that_cannot_be_read(tmp_path, monkeypatch):
    inline(tmp_path)

    def refuse(path: Path, *arguments: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    done = convert_vae(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert_refused(done, "Permission denied")


# Sends itself SIGINT at the N-th call of a function, given by its module and name.
INTERRUPTED = """
import importlib, os, signal, sys

module, name, count, *arguments = sys.argv[1:]
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), []

def interrupting(*given, **named):
    calls.append(1)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGINT)
    return original(*given, **named)

setattr(owner, last, interrupting)
from converter.cli.convert_vae import main
sys.argv = ["convert-vae", *arguments]
main()
"""

MOMENTS = {
    "load, before": ("converter.model_file", "load", 1),
    "load, in the middle of the file": ("converter.wire", "_read_varint", 40),
    "load, at the digest": ("converter.model_file", "digest", 1),
    "plan": ("converter.planning", "make_plan", 1),
    "plan, at the opset": ("converter.convert", "suit", 1),
    "rewrite": ("converter.rewriting", "replace_node", 2),
    "rewrite, at its end": ("converter.rewriting", "close_model", 2),
    "save": ("converter.model_file", "write", 1),
    "save, between two weights": ("converter.weights", "WeightTable.read", 2),
    "save, before it is on the disk": ("os", "fsync", 1),
    "save, at the check": ("converter.model_file", "check", 2),
    "validate": ("converter.compare.validate", "validate", 1),
    "validate, the original": ("converter.session", "Session.run", 1),
    "validate, the converted": ("converter.session", "Session.run", 2),
    "before the files are in place": ("os", "replace", 1),
}


@pytest.mark.parametrize(("module", "name", "count"), MOMENTS.values(), ids=MOMENTS)
def test_ctrl_c_in_each_phase_leaves_what_was_there(tmp_path, module, name, count):
    inline(tmp_path)
    save_external(small_models.conv3d(), tmp_path / "out.onnx", "out.onnx.data")
    before = files(tmp_path)
    arguments = [tmp_path / "in.onnx", tmp_path / "out.onnx", "--overwrite"]
    arguments += ["--external-data", "always"]
    done = process(module, name, count, *arguments, code=INTERRUPTED)
    assert_refused(done, "interrupted; nothing was written")
    assert files(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_job_that_is_stopped_leaves_what_was_there(tmp_path):
    inline(tmp_path)
    before = files(tmp_path)
    arguments = [tmp_path / "in.onnx", tmp_path / "out.onnx", "--external-data", "always"]
    code = INTERRUPTED.replace("SIGINT", "SIGTERM")
    done = process("converter.weights", "WeightTable.read", 2, *arguments, code=code)
    assert_refused(done, "interrupted; nothing was written")
    assert files(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [("converter.tune", "_candidate", 6), ("converter.race", "judge", 1)],
    ids=["while layers are timed", "while graphs are timed"],
)
def test_ctrl_c_while_tuning_says_that_times_are_kept(tmp_path, module, name, count):
    """Two Convs of different shapes with four candidates each: one is timed, then the other."""
    weights = [
        from_array(np.ones(s, np.float32), n)
        for n, s in (("w1", (8, 4, 3, 3, 3)), ("w2", (4, 8, 3, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["m"], pads=[1] * 6),
        helper.make_node("Conv", ["m", "w2"], ["y"], pads=[1] * 6),
    ]
    ends = [small_models.value("x", VIDEO)], [small_models.value("y", VIDEO)]
    source = save(small_models.model(nodes, *ends, weights), tmp_path / "in.onnx")
    cache = tmp_path / "times" / "tuning.json"
    arguments = [source, tmp_path / "out.onnx", "--tune", "--tuning-cache", cache]
    done = process(module, name, count, *arguments, "--provider", "cpu", code=INTERRUPTED)
    assert_refused(done, "interrupted; no graph was written. The times measured so far are kept in")
    assert str(cache) in done.stderr
    assert sorted(files(tmp_path)) == ["in.onnx", "times/tuning.json"]
    (times,) = json.loads(cache.read_text())["seconds"].values()
    assert len(times) == (1 if module == "converter.tune" else 2)


def test_ctrl_c_before_anything_is_timed(tmp_path):
    inline(tmp_path)
    arguments = [tmp_path / "in.onnx", tmp_path / "out.onnx", "--tune"]
    arguments += ["--tuning-cache", tmp_path / "t.json", "--provider", "cpu"]
    done = process("converter.tune", "_candidate", 1, *arguments, code=INTERRUPTED)
    assert_refused(done, "interrupted; nothing was written.")


def test_the_interrupting_driver_does_nothing_else(tmp_path):
    inline(tmp_path)
    never = ("converter.model_file", "load", 99)
    done = process(*never, tmp_path / "in.onnx", tmp_path / "out.onnx", code=INTERRUPTED)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path)
