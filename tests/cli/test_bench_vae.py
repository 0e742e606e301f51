import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from converter.cli import bench_vae
from tests.bench.results import TWO


class Called:
    """Stands in for the measurement: notes the request, and gives `result` or raises it."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(bench_vae, "bench_graphs", self)
        self.result = TWO

    def __call__(self, graphs, request, notify):
        notify("loading", 0, 3)
        self.graphs, self.request = graphs, request
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def called(monkeypatch):
    return Called(monkeypatch)


def invoke(*arguments):
    return CliRunner().invoke(bench_vae.main, [str(argument) for argument in arguments])


def test_a_table(called):
    outcome = invoke("a.onnx", "b.onnx")
    assert outcome.exit_code == 0
    assert "2.00x [2.00 2.50]" in outcome.stdout
    assert outcome.stderr == ""
    assert [str(graph) for graph in called.graphs] == ["a.onnx", "b.onnx"]
    request = called.request
    assert (request.rules.rounds, request.rules.keep_going, request.rules.limit) == (
        10,
        False,
        None,
    )
    assert (request.seed, request.provider, request.threads) == (0, "auto", None)


def test_options_reach_the_measurement(called):
    invoke(
        *("a.onnx", "--rounds", 3, "--seed", 5, "--threads", 2, "--provider", "cpu"),
        *("--shape", "x=1x2x3"),
    )
    request = called.request
    assert (request.rules.rounds, request.seed, request.threads) == (3, 5, 2)
    assert (request.provider, request.shapes) == ("cpu", {"x": (1, 2, 3)})


def test_json_alone_on_stdout(called):
    outcome = invoke("a.onnx", "b.onnx", "--json")
    assert outcome.exit_code == 0
    assert json.loads(outcome.stdout) == TWO.to_json()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_ctrl_c_prints_what_was_measured(called, form):
    called.result = replace(TWO, interrupted=True)
    outcome = invoke("a.onnx", *form)
    assert outcome.exit_code == 2
    assert "second|.onnx" in outcome.stdout
    assert outcome.stderr == "error: interrupted; the rounds that were done are shown.\n"


def test_ctrl_c_before_that_prints_a_sentence(called):
    called.result = KeyboardInterrupt()
    outcome = invoke("a.onnx")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr == "error: interrupted; nothing was written.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'GRAPHS...'"),
        (("missing.onnx",), "error: missing.onnx cannot be read: No such file or directory."),
        (("missing.onnx", "--provider", "abacus"), "'abacus' is not one of 'auto'"),
        (("missing.onnx", "--shape", "x"), "error: --shape 'x' is not of the form NAME=VALUE."),
        (("missing.onnx", "--rounds", "0"), "0 is not in the range x>=1"),
    ],
)
def test_bad_input_is_a_sentence(arguments, words):
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2
    assert words in outcome.stderr
    assert "Traceback" not in outcome.output
