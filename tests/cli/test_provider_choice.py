"""`--provider`, `--provider-option` and `--strict-provider`: they reach every session."""

import pytest
from click.testing import CliRunner

from converter import convert
from converter.cli import bench_vae, convert_vae, diff_vae, export_vae
from converter.cli.common import session_settings
from converter.compare import running, validate
from converter.compare.diff import DiffRequest, diff
from converter.errors import UserError
from converter.providers import Usable
from converter.session import CPU_ID, SessionSettings
from tests.bench.results import TWO
from tests.small_models import conv3d, save

pytest.importorskip("onnxruntime")

COMMANDS = {"bench": bench_vae, "convert": convert_vae, "diff": diff_vae, "export": export_vae}
NONSENSE = ("--provider", "cpu", "--provider-option", "nonsense=1")
REFUSED = "error: --provider-option: CPUExecutionProvider has no option 'nonsense'.\n"


@pytest.fixture
def graph(tmp_path):
    return save(conv3d(dims=[1, 2, 3, 12, 16]), tmp_path / "m.onnx")


@pytest.fixture
def open_graph(tmp_path):
    """Of sizes that are found by trial, in a session of its own."""
    return save(conv3d(dims=[1, 2, "T", 12, 16]), tmp_path / "open.onnx")


def invoke(command, *arguments):
    return CliRunner().invoke(COMMANDS[command].main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_makes_sessions_has_them(command):
    text = invoke(command, "--help").output
    assert "[auto|migraphx|rocm|cuda|openvino|cpu]" in text
    for option in ("--provider-option NAME=VALUE", "--strict-provider"):
        assert option in text
    assert "Execution provider" in text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--provider", "tpu"), "'tpu' is not one of 'auto', 'migraphx'"),
        (("--provider-option", "device_id"), "'device_id' is not of the form NAME=VALUE."),
    ],
)
def test_bad_usage_ends_with_2(command, graph, tmp_path, arguments, said):
    outcome = invoke(command, graph, tmp_path / "out.onnx", *arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_an_unknown_option_ends_a_validation(graph, tmp_path):
    outcome = invoke("convert", graph, tmp_path / "out.onnx", *NONSENSE)
    assert (outcome.exit_code, outcome.stderr) == (2, REFUSED)
    assert not (tmp_path / "out.onnx").exists()


def test_an_unknown_option_ends_a_report(graph, tmp_path):
    pytest.importorskip("skimage")
    report = tmp_path / "report.md"
    outcome = invoke(
        *("convert", graph, tmp_path / "out.onnx", "--no-validate", "--report", report, *NONSENSE)
    )
    assert (outcome.exit_code, outcome.stderr) == (2, REFUSED)
    assert not report.exists()


def test_an_unknown_option_ends_a_tuning(graph, tmp_path):
    out = tmp_path / "out.onnx"
    cache = ("--tuning-cache", tmp_path / "times.json")
    outcome = invoke("convert", graph, out, "--no-validate", "--tune", *cache, *NONSENSE)
    assert (outcome.exit_code, outcome.stderr) == (2, REFUSED)
    assert not out.exists()


@pytest.mark.parametrize("source", ["graph", "open_graph"])
def test_an_unknown_option_ends_a_comparison(request, source):
    path = request.getfixturevalue(source)
    outcome = invoke("diff", path, path, *NONSENSE)
    assert (outcome.exit_code, outcome.stderr) == (2, REFUSED)


def test_an_unknown_option_ends_a_measurement(graph):
    outcome = invoke("bench", graph, "--rounds", 1, *NONSENSE)
    assert outcome.exit_code == 2
    assert "CPUExecutionProvider has no option 'nonsense'" in outcome.stderr


def test_options_and_strictness_reach_an_export(monkeypatch, tmp_path):
    found = {}

    def export(source, out, **settings):
        found.update(settings)
        raise UserError("enough.")

    monkeypatch.setattr(export_vae, "export", export)
    monkeypatch.setattr(export_vae, "export_stream", export)
    for stream in ((), ("--stream",)):
        invoke("export", "wan2.1", tmp_path / "out.onnx", *stream)
        assert (found["provider"], found["settings"]) == ("cpu", SessionSettings())
        chosen = ("--provider", "rocm", "--provider-option", "device_id=1", "--strict-provider")
        invoke("export", "wan2.1", tmp_path / "out.onnx", *stream, *chosen)
        assert found["provider"] == "rocm"
        assert found["settings"] == SessionSettings({"device_id": "1"}, strict=True)


def test_settings_of_the_options():
    assert session_settings(["a=1", "b=x=2"], True) == SessionSettings(
        {"a": "1", "b=x": "2"}, strict=True
    )


def test_of_a_comparison_only_the_candidates_are_strict(monkeypatch, tmp_path, open_graph):
    pytest.importorskip("skimage")
    candidate = tmp_path / "candidate.onnx"
    convert(open_graph, candidate, validate=False)
    made = []

    def make_session(path, provider, settings):
        made.append((path.name, settings))
        return original(path, provider)

    original = running.make_session
    monkeypatch.setattr(running, "make_session", make_session)
    settings = SessionSettings({"device_id": "1"}, strict=True)
    diff(open_graph, (candidate,), DiffRequest(provider="cpu", settings=settings, layers=True))
    assert all(s.provider_options == {"device_id": "1"} for _, s in made)
    assert {name for name, s in made if s.strict} == {"candidate.onnx"}
    assert [s.strict for name, s in made if name == "open.onnx"] == [False, False]
    assert len(made) > 4  # And those of the layers.


@pytest.mark.parametrize("command", ["diff", "convert"])
def test_auto_says_which_better_ones_do_not_work_here(monkeypatch, graph, tmp_path, command):
    """In a line; with -v, why."""
    pytest.importorskip("skimage")
    usable = Usable("cpu", CPU_ID, ("rocm: its library lacks.", "cuda: there is no device."))
    for where in (diff_vae, validate):
        monkeypatch.setattr(where, "choose", lambda provider: usable)
    other = graph if command == "diff" else tmp_path / "out.onnx"
    text = invoke(command, graph, other).output
    assert "provider: cpu; not usable here: rocm, cuda (-v says why)" in text
    long = invoke(command, graph, other, "-v", *(() if command == "diff" else ("--overwrite",)))
    assert "rocm: its library lacks." in long.output
    assert "cuda: there is no device." in long.output


def test_a_measurement_says_it_too(monkeypatch, graph):
    usable = Usable("cpu", CPU_ID, ("rocm: its library lacks.",))
    monkeypatch.setattr(bench_vae, "bench_graphs", lambda *given: TWO)
    monkeypatch.setattr(bench_vae, "choose", lambda provider: usable)
    assert "rocm: its library lacks." in invoke("bench", graph).output
