import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from converter.cli import export_vae
from converter.errors import UserError
from converter.export import ExportResult
from converter.export_stream import StreamExportResult
from converter.origin import GraphOptions
from converter.result import GraphSummary
from converter.session import SessionSettings

RESULT = ExportResult(
    source="wan2.1",
    output=Path("out.onnx"),
    written=True,
    family="Wan",
    seed=0,
    latent=(1, 16, 3, 16, 16),
    video=(1, 3, 9, 128, 128),
    dynamic=("T", "H", "W"),
    graph=GraphSummary({"Conv": 39, "Add": 15}, 34, 73_295_611, 293_300_000, 18, 10),
    max_abs_error=4.2e-6,
    tolerance=1e-5,
    checked=((1, 16, 3, 16, 16),),
    seconds={"open": 1.0, "trace": 2.5},
)

STREAM = StreamExportResult(
    source="wan2.1",
    output=Path("out.json"),
    written=True,
    family="Wan",
    seed=0,
    chunk=2,
    latent=(1, 16, 2, 16, 16),
    dynamic=False,
    graphs={"first": RESULT.graph, "next": RESULT.graph},
    data_bytes=293_263_744,
    max_abs_error=4.2e-6,
    tolerance=1e-5,
    checked=((1, 16, 5, 16, 16),),
    seconds={"open": 1.0},
)


@pytest.fixture
def calls(monkeypatch):
    """Replaces `export` by one that records its arguments and returns RESULT."""
    made = []

    def export(source, out, **options):
        made.append((source, out, options))
        return RESULT

    monkeypatch.setattr(export_vae, "export", export)
    return made


def invoke(*args):
    return CliRunner().invoke(export_vae.main, [str(arg) for arg in args])


def returning(monkeypatch, outcome):
    def export(*args, **options):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(export_vae, "export", export)


def test_every_option_arrives(calls):
    run = invoke(
        *("wan2.1", "out.onnx", "--seed", 3, "--latent", "2x16x5x8x9", "--dynamic"),
        *("--opset", 20, "--no-check", "--tolerance", 1e-3, "--overwrite"),
        *("--denormalize", "--uint8", "--dtype", "bf16"),
    )
    assert run.exit_code == 0
    ((source, out, options),) = calls
    options.pop("notify")
    assert (source, out) == ("wan2.1", Path("out.onnx"))
    assert options == {
        "seed": 3,
        "latent": (2, 16, 5, 8, 9),
        "video": None,
        "dynamic": True,
        "options": GraphOptions(denormalize=True, uint8=True, weights="bfloat16"),
        "opset": 20,
        "check": False,
        "tolerance": 1e-3,
        "provider": "cpu",
        "settings": SessionSettings(),
        "overwrite": True,
    }


def test_a_stream_goes_to_its_own_exporter(monkeypatch):
    made = []

    def export_stream(source, out, **options):
        made.append((source, out, options["chunk"], options["seed"]))
        return STREAM

    monkeypatch.setattr(export_vae, "export_stream", export_stream)
    run = invoke("wan2.1", "out.json", "--stream", "--chunk", 2, "--seed", 0)
    assert run.exit_code == 0
    lines = [" ".join(line.split()) for line in run.stdout.splitlines()]
    assert [line for line in lines if line and not set(line) <= {"─"}] == [
        "family: Wan (wan2.1, weights random, seed 0)",
        "latent: 1x16x2x16x16, a chunk of 2",
        "weights of both graphs: 293.3 MB",
        "first next",
        "nodes 54 54",
        "Conv3D 34 34",
        "parameters 73,295,611 73,295,611",
        "file size 293.3 MB 293.3 MB",
        "time: open 1.00 s",
        "check: equal to upstream's decode: max abs 4.20e-06 <= 1e-05, at 1x16x5x16x16",
        "written: out.json",
    ]
    assert invoke("wan2.1", "out.json", "--stream").exit_code == 0
    assert made == [("wan2.1", Path("out.json"), 2, 0), ("wan2.1", Path("out.json"), 1, None)]
    content = json.loads(invoke("wan2.1", "out.json", "--stream", "--json").stdout)
    assert content["graphs"]["next"]["conv3d"] == 34


def test_a_chunk_without_a_stream(calls):
    run = invoke("wan2.1", "out.onnx", "--chunk", 2)
    assert run.exit_code == 2
    assert "--chunk is for --stream" in run.stderr
    assert calls == []


def test_a_graph_that_is_named_as_a_manifest(calls):
    run = invoke("wan2.1", "out.json")
    assert (run.exit_code, run.stdout) == (2, "")
    assert (
        run.stderr
        == "error: out.json is named as a manifest: add --stream, or name a .onnx file.\n"
    )
    assert calls == []


def test_the_defaults(calls):
    assert invoke("some/folder", "out.onnx").exit_code == 0
    options = calls[0][2]
    options.pop("notify")
    assert options == {
        "seed": None,
        "latent": None,
        "video": None,
        "dynamic": False,
        "options": GraphOptions(),
        "opset": 18,
        "check": True,
        "tolerance": None,
        "provider": "cpu",
        "settings": SessionSettings(),
        "overwrite": False,
    }


def test_the_summary(calls):
    lines = [line.split() for line in invoke("wan2.1", "out.onnx").stdout.splitlines()]
    rows = {line[0]: " ".join(line[1:]) for line in lines if line}
    assert rows == {
        "family": "Wan (wan2.1, weights random, seed 0)",
        "latent": "1x16x3x16x16, any T, H, W",
        "video": "1x3x9x128x128",
        "nodes": "54",
        "Conv3D": "34",
        "parameters": "73,295,611",
        "file": "size 293.3 MB",
        "opset": "18",
        "time:": "open 1.00 s, trace 2.50 s",
        "check:": "equal to upstream's decode: max abs 4.20e-06 <= 1e-05, at 1 latent shape",
        "written:": "out.onnx",
    }


def test_weights_from_a_file_and_static_sizes(monkeypatch):
    returning(monkeypatch, replace(RESULT, seed=None, dynamic=()))
    text = invoke("wan2.1", "out.onnx").stdout
    assert "weights read" in text
    assert "any T" not in text


def test_verbose_counts_the_operators(calls):
    lines = [line.split() for line in invoke("wan2.1", "out.onnx", "-v").stdout.splitlines()]
    assert ["Conv", "39"] in lines
    assert ["Add", "15"] in lines


def test_json_is_all_there_is(calls):
    run = invoke("wan2.1", "out.onnx", "--json")
    assert json.loads(run.stdout) == json.loads(json.dumps(RESULT.to_json()))
    assert run.stderr == ""


def test_quiet_prints_nothing(calls):
    assert invoke("wan2.1", "out.onnx", "-q").output == ""


@pytest.mark.parametrize("options", [[], ["-q"], ["--json"]])
def test_a_difference_is_exit_1_and_names_the_tolerance(monkeypatch, options):
    returning(monkeypatch, replace(RESULT, max_abs_error=2.04e-5, written=False))
    run = invoke("wan2.1", "out.onnx", *options)
    assert run.exit_code == 1
    assert "different from upstream's decode: max abs 2.04e-05 > 1e-05" in run.stderr
    assert "out.onnx was not written" in run.stderr
    assert "--tolerance 2.1e-05 would have passed" in run.stderr
    assert "written:" not in run.stdout


def test_no_tolerance_passes_what_is_not_a_number(monkeypatch):
    returning(monkeypatch, replace(RESULT, max_abs_error=float("nan"), written=False))
    run = invoke("wan2.1", "out.onnx")
    assert run.exit_code == 1
    assert "would have passed" not in run.stderr


@pytest.mark.parametrize("text", ["1x16xTx8x8", "1,16,3,8,8", "-1x16x3x8x8", ""])
def test_a_latent_that_is_no_shape(text):
    run = invoke("wan2.1", "out.onnx", "--seed", 0, "--latent", text)
    assert run.exit_code == 2
    assert run.stderr == f"error: --latent {text} is not a shape such as 1x16x3x16x16.\n"


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (UserError("the weights do not fit."), "error: the weights do not fit.\n"),
        (KeyboardInterrupt(), "error: interrupted; nothing was written.\n"),
        (OSError(28, "Disk full"), "error: Disk full; nothing was written.\n"),
        (MemoryError(), "error: out of memory; nothing was written.\n"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_2(monkeypatch, outcome, sentence):
    returning(monkeypatch, outcome)
    run = invoke("wan2.1", "out.onnx")
    assert run.exit_code == 2
    assert run.stderr == sentence
    assert run.stdout == ""


def test_debug_shows_where(monkeypatch):
    returning(monkeypatch, UserError("no."))
    result = invoke("wan2.1", "out.onnx", "--debug")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last)")


def test_without_pytorch_the_extra_is_named(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from converter.cli.export_vae import main\n"
        f"main(['wan2.1', {str(tmp_path / 'o.onnx')!r}, '--seed', '0'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "pip install 'convert-vae[export]'" in run.stderr
    assert "Traceback" not in run.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "shown"),
    [(Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)],
)
def test_phases_are_shown_on_a_terminal_only(monkeypatch, stream, quiet, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    with export_vae._progress(quiet) as notify:
        for phase in ("open", "trace", "write", "check"):
            notify(phase)
    assert bool(stream.getvalue()) is shown


def test_list_shows_the_presets_without_a_source(monkeypatch):
    from models import catalog

    entry = catalog.Entry(
        "tiny", "Tiny", 4, 2, "T * 3", 16, stream=True, encoder=True, parameters=1234
    )
    monkeypatch.setattr(catalog, "entries", lambda: iter([entry]))
    result = CliRunner().invoke(export_vae.main, ["--list"])
    assert result.exit_code == 0
    shown = ("Nx4xTxHxW with H and W >= 2", "T * 3", "* 16", "clip, stream, encoder", "1,234")
    for text in ("tiny", "Tiny", *shown):
        assert text in result.output


def test_an_encoder(calls, monkeypatch):
    run = invoke(
        *("wan2.1", "out.onnx", "--encoder", "--video", "2x3x5x8x16", "--normalize", "--uint8")
    )
    assert run.exit_code == 0
    options = calls[0][2]
    assert options["options"] == GraphOptions(denormalize=True, uint8=True, encoder=True)
    assert (options["video"], options["latent"]) == ((2, 3, 5, 8, 16), None)
    returning(monkeypatch, replace(RESULT, encoder=True))
    lines = invoke("wan2.1", "out.onnx", "--encoder").stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    video = rows.index("video 1x3x9x128x128")
    assert rows[video + 1] == "latent 1x16x3x16x16, any T, H, W"
    assert "check: equal to upstream's encode: max abs 4.20e-06 <= 1e-05, at 1 video shape" in rows


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--encoder", "--stream"], "an encoder has no stream form here: leave out --stream, or"),
        (["--encoder", "--latent", "1x4x1x2x2"], "give its shape by --video, not --latent."),
        (["--encoder", "--denormalize"], "--normalize makes the pipeline's, --denormalize is for"),
        (["--encoder", "--video", "big"], "--video big is not a shape such as 1x3x9x128x128."),
        (["--video", "1x3x9x8x8"], "--video is for --encoder; give both or neither."),
        (["--normalize"], "--normalize is for --encoder; give both or neither."),
    ],
)
def test_options_that_an_encoder_or_a_decoder_does_not_have(calls, options, sentence):
    run = invoke("wan2.1", "out.onnx", *options)
    assert run.exit_code == 2
    assert run.stderr.startswith("error: ")
    assert sentence in run.stderr
    assert calls == []
