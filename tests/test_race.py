"""A tuned graph is raced as a whole: who wins, what is then written, and when there is no race."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from converter import UserError, convert, race
from converter.choice import Choice
from converter.convert import Options
from converter.race import ORIGINAL, TUNED, UNTUNED, judge, run
from converter.tune import Tuner
from converter.tuning_cache import TuningCache
from tests import small_models
from tests.execute import conv3d_left
from tests.small_models import files, save
from tests.test_tune import BENCH, write


@pytest.fixture
def source(tmp_path) -> Path:
    """Two equal Convs of 4 frames, which `auto` gives to Winograd by estimate."""
    return write(tmp_path / "in.onnx")


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out.onnx"


class Tuned(Tuner):
    """A tuner that has measured what the test says."""

    strategy = "taps"

    def __call__(self, conv):
        return Choice(self.strategy, "measured", seconds={self.strategy: 1.0, "keep": 2.0})


@pytest.fixture
def tuned(tmp_path) -> Tuner:
    return Tuned(TuningCache(tmp_path / "cache.json"), BENCH, "cpu")


@pytest.fixture
def timed(monkeypatch):
    """Whole graphs that take the times of a table."""
    table = {ORIGINAL: [4.0, 4.0], TUNED: [2.0, 2.0], UNTUNED: [3.0, 3.0]}
    monkeypatch.setattr(race, "_time", lambda *given: table)
    return table


def strategies(result) -> list[str]:
    return [entry.strategy for entry in result.plan.entries]


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "tuned", "untuned", "winner"),
    [
        ([4.0], [2.0], [3.0], TUNED),
        ([4.0], [3.0], [2.0], UNTUNED),
        ([1.0], [2.0], [3.0], ORIGINAL),
        ([1.0], [1.04], [3.0], TUNED),  # slower by noise only
        ([1.0], [1.06], [3.0], ORIGINAL),
        ([1.0, 1.0, 9.0], [2.0, 0.5, 0.5], [0.7, 0.7, 0.7], TUNED),  # medians
    ],
)
def test_the_winner(original, tuned, untuned, winner):
    assert judge({ORIGINAL: original, TUNED: tuned, UNTUNED: untuned}).winner == winner


def test_the_sentence_has_all_times():
    verdict = judge({ORIGINAL: [4.0, 6.0, 5.0], TUNED: [2.0, 2.0, 2.0]})
    assert verdict.sentence == (
        "whole graphs, 3 rounds: original 5 s; tuned 2 s, 2.50x [2.25 2.75]: "
        "the tuned plan is taken"
    )
    kept = judge({ORIGINAL: [1.0], TUNED: [2.0]})
    assert kept.sentence.endswith("tuned 2 s, 0.50x [0.50 0.50]: no Conv3D is rewritten")


# --- what is written -----------------------------------------------------------------------------


def test_the_plan_that_wins_is_written(source, output, tuned, timed):
    result = run(source, output, Options(choose=tuned), lambda phase: None)
    assert strategies(result) == ["taps", "taps"]
    assert result.plan.entries[0].reason == "measured"
    assert result.validation.passed
    assert "the tuned plan is taken" in result.notes[-1]
    assert conv3d_left(onnx.load(output)) == []


def test_the_untuned_plan_where_that_wins(source, output, tuned, timed):
    timed[UNTUNED] = [1.0, 1.0]
    result = run(source, output, Options(choose=tuned, target="cpu"), lambda phase: None)
    assert strategies(result) == ["winograd", "winograd"]
    assert "the untuned plan is taken" in result.notes[-1]


def test_nothing_is_rewritten_where_the_original_wins(source, output, tuned, timed):
    timed[ORIGINAL] = [1.0, 1.0]
    result = run(source, output, Options(choose=tuned), lambda phase: None)
    assert strategies(result) == ["keep", "keep"]
    assert {entry.reason for entry in result.plan.entries} == {"the original is faster as a whole"}
    assert result.equal
    assert [n.op_type for n in onnx.load(output).graph.node] == ["Conv", "Conv"]


def test_real_graphs_are_raced(source, output, tuned, monkeypatch):
    """Every graph runs in a process of its own; the rounds are few here."""
    monkeypatch.setattr(race, "ROUNDS", range(2, 3))
    phases: list[str] = []
    options = Options(choose=tuned, provider="cpu", target="cpu")
    result = run(source, output, options, phases.append)
    assert result.written
    assert result.notes[-1].startswith("whole graphs, 2 rounds: original ")
    assert "; tuned " in result.notes[-1]
    assert "; untuned " in result.notes[-1]
    assert any(p.endswith("round 2 of 2: untuned") for p in phases)
    assert sorted(files(source.parent)) == ["in.onnx", "out.onnx"]


def test_a_plan_that_is_the_untuned_one_is_raced_once(source, output, tuned, monkeypatch):
    monkeypatch.setattr(race, "ROUNDS", range(2, 3))
    tuned.strategy = "winograd"
    result = run(source, output, Options(choose=tuned, target="cpu"), lambda phase: None)
    assert "; tuned " in result.notes[-1]
    assert "untuned" not in result.notes[-1]


# --- how long ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 15), (1.0, 5), (60.0, 3)])
def test_rounds_fit_the_time(source, tuned, seconds, rounds):
    """Two layers in each of three graphs, 30 s in all."""
    options = Options(choose=lambda conv: Choice("taps", "", seconds={"taps": seconds}))
    plan = race._plan(source, options, lambda phase: None)
    assert race._rounds(plan, 3) == rounds


# --- no race -------------------------------------------------------------------------------------


@pytest.fixture
def no_race(monkeypatch):
    def fail(*given):
        raise AssertionError("there is nothing to race")

    monkeypatch.setattr(race, "_time", fail)


@pytest.mark.parametrize("changes", [{"strategy": "unfold"}, {"dry_run": True}])
def test_no_race_where_nothing_is_tuned(source, output, tuned, no_race, changes):
    result = run(source, output, Options(choose=tuned, **changes), lambda phase: None)
    assert result.notes == ()


def test_no_race_without_a_conv3d(tmp_path, output, tuned, no_race):
    plain = save(small_models.conv2d(), tmp_path / "plain.onnx")
    result = run(plain, output, Options(choose=tuned), lambda phase: None)
    assert result.notes == ("there is no Conv3D in this graph: it was written unchanged",)


def test_no_race_at_open_sizes(tmp_path, output, tuned, no_race):
    dynamic = write(tmp_path / "dynamic.onnx", frames="T")
    result = run(dynamic, output, Options(choose=tuned), lambda phase: None)
    assert result.written
    assert result.notes == ("not timed as a whole: sizes of x are open; --shape gives them",)


def test_what_cannot_be_run_is_converted_all_the_same(source, output, tuned, monkeypatch):
    def fail(*given):
        raise UserError("it has no kernel.")

    monkeypatch.setattr(race, "_time", fail)
    result = run(source, output, Options(choose=tuned), lambda phase: None)
    assert strategies(result) == ["taps", "taps"]
    assert result.notes[-1] == "not timed as a whole: it has no kernel."


def test_an_output_that_exists_is_refused_before_anything_is_timed(source, output, tuned, no_race):
    output.write_bytes(b"precious")
    with pytest.raises(UserError, match="exists"):
        run(source, output, Options(choose=tuned), lambda phase: None)
    assert output.read_bytes() == b"precious"


def test_the_door_races_too(source, output, timed, monkeypatch):
    result = convert(source, output, tune=True, tuning_cache=source.parent / "t.json")
    assert result.notes[-1].startswith("whole graphs, 2 rounds: ")
