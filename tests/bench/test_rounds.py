from typing import ClassVar

import numpy as np
import pytest

from converter.bench import rounds as module
from converter.bench.rounds import Rules, run_rounds
from converter.bench.worker import Loaded, Memory, Ran, Sample
from converter.errors import UserError
from tests.bench.contestants import Scale


class SameProcess:
    """Stands in for a worker, without its process: that has tests of its own."""

    closed: ClassVar[list[str]] = []

    def __init__(self, contestant, limit):
        self.label = contestant.label
        self.runner = contestant.load()
        self.loaded = Loaded(self.runner.description, 0.0)

    def first_run(self, feed):
        self.feed = feed
        return self.run(), self.outputs

    def run(self):
        try:
            self.outputs = self.runner.run(self.feed)
        except ZeroDivisionError as error:
            raise UserError(f"{self.label}: {error}") from error
        return Ran(Sample(1.0, 1.0), Memory(None, None, None))

    def __enter__(self):
        return self

    def close(self):
        self.closed.append(self.label)

    def __exit__(self, *exception):
        return None


class Race:
    """Three contestants on feeds of growing size, with a log of who ran when."""

    def __init__(self, folder):
        self.log = folder / "log"
        self.heard = []
        self.stop_at = None

    def scale(self, label, **behaviour):
        return Scale(label, self.log, **behaviour)

    def run(self, *contestants, rounds=2, sizes=(2,), **rules):
        trials = (({"x": (size,)}, {"x": np.arange(size, dtype=np.float32)}) for size in sizes)
        roof = self.scale("roof")
        return run_rounds(contestants, roof, trials, Rules(rounds, **rules), self.notify)

    def notify(self, what, done, total):
        self.heard.append((done, total))
        if what == self.stop_at:
            raise KeyboardInterrupt

    def order(self):
        return self.log.read_text().split()


@pytest.fixture
def race(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Worker", SameProcess)
    monkeypatch.setattr(SameProcess, "closed", [])
    return Race(tmp_path)


def test_rounds_are_interleaved_after_a_run_that_does_not_count(race):
    measured = race.run(race.scale("a"), race.scale("b", factor=1.5))
    assert race.order() == ["a", "b", "roof"] * 3
    a, b = measured.lanes
    assert (a.label, b.label, measured.gemm.label) == ("a", "b", "roof")
    assert [len(lane.samples) for lane in (a, b, measured.gemm)] == [2, 2, 2]
    assert a.difference is None
    assert b.difference.max_abs == 0.5  # |1.5 - 1| times the largest of [0, 1]
    assert b.description == "a multiplication"
    assert measured.feed_shapes == {"x": (2,)}
    assert not measured.interrupted
    assert race.heard == [(done, 9) for done in range(9)]


def test_the_first_size_that_runs_is_used_for_all(race):
    measured = race.run(race.scale("a", smallest=3), race.scale("b"), rounds=1, sizes=(1, 2, 3, 4))
    assert measured.feed_shapes == {"x": (3,)}
    assert race.order() == ["a", "b", "roof"] * 2


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((1,), r"^1 is too small$"),
        ((1, 2), r"a runs at none of the sizes tried .* by --shape \(the last try: 2 is too small"),
    ],
)
def test_no_size_that_runs_is_a_sentence(race, sizes, words):
    with pytest.raises(UserError, match=words):
        race.run(race.scale("a", smallest=9), sizes=sizes)


def test_ctrl_c_keeps_what_was_measured(race):
    race.stop_at = "round 2 of 5: b"
    measured = race.run(race.scale("a"), race.scale("b"), rounds=5)
    assert measured.interrupted
    assert [len(lane.samples) for lane in measured.lanes] == [2, 1]


@pytest.mark.parametrize("moment", ["loading b", "round 1 of 2: a"])
def test_ctrl_c_before_anything_was_measured_goes_through(race, moment):
    race.stop_at = moment
    with pytest.raises(KeyboardInterrupt):
        race.run(race.scale("a"), race.scale("b"))


def test_a_failure_ends_it_unless_told_to_go_on(race):
    b = race.scale("b", fails_at_run=2)
    with pytest.raises(UserError, match="b: nothing to divide by"):
        race.run(race.scale("a"), b)
    c = race.scale("c", fails_at_load="c is not installed.")
    d = race.scale("d", output="z")
    race.log.unlink()
    measured = race.run(race.scale("a"), b, c, d, keep_going=True)
    failures = [lane.failure for lane in measured.lanes]
    assert failures == [
        "",
        "b: nothing to divide by",
        "c is not installed.",
        "d has no output y.",
    ]
    assert [len(lane.samples) for lane in measured.lanes] == [2, 0, 0, 0]
    assert race.order() == ["a", "b", "d", "roof", "a", "roof", "a", "roof"]
    assert SameProcess.closed == ["d", "b"]  # c never had a process


def test_the_first_may_not_fail(race):
    with pytest.raises(UserError, match="a: nothing to divide by"):
        race.run(race.scale("a", fails_at_run=2), keep_going=True)


def test_a_row_that_took_its_time_runs_no_more(race):
    """Each run takes 1 s: the first contestant runs all rounds, the others stop after 2 s."""
    measured = race.run(race.scale("a"), race.scale("b"), rounds=5, row_seconds=2.0)
    assert [len(lane.samples) for lane in measured.lanes] == [5, 2]
    assert len(measured.gemm.samples) == 2
    at_least_one = race.run(race.scale("a"), race.scale("b"), rounds=5, row_seconds=0.1)
    assert [len(lane.samples) for lane in at_least_one.lanes] == [5, 1]


def test_of_several_outputs_the_furthest_is_shown():
    """Another shape before a NaN, a NaN before any number, else the largest error."""
    zero = np.zeros(2, np.float32)
    outputs = {"near": zero + 1, "far": zero + 3, "nan": np.float32([np.nan, 0]), "short": zero[:1]}
    entrant = module._Entrant("b")
    for worst in ("short", "nan", "far", "near"):
        entrant.compare(dict.fromkeys(outputs, zero), outputs)
        assert entrant.lane.difference.name == worst
        del outputs[worst]
    with pytest.raises(UserError, match="b has no output far"):
        entrant.compare({"near": zero, "far": zero}, {})


def test_without_the_gemm_the_others_are_measured(race):
    roof = race.scale("roof", fails_at_load="no room")
    trials = [({"x": (2,)}, {"x": np.zeros(2, np.float32)})]
    measured = run_rounds([race.scale("a")], roof, trials, Rules(2), race.notify)
    assert (measured.gemm.failure, measured.gemm.samples) == ("no room", ())
    assert len(measured.lanes[0].samples) == 2
