"""Interleaved rounds: every contestant once, then every contestant again.

What slows the machine for a while then slows all of them, and a round's times can be compared pair
by pair. One contestant runs at a time; the others' processes sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from converter.bench.contestants import Gemm
from converter.bench.result import Lane
from converter.bench.worker import Contestant, Feed, Worker
from converter.compare.feeds import Shapes
from converter.compare.metrics import difference
from converter.compare.output_difference import OutputDifference
from converter.errors import UserError
from converter.session import Array, RunError

Notify = Callable[[str, int, int], None]
"""Hears what is going on, how many steps are done, and of how many."""


@dataclass(frozen=True)
class Rules:
    """How to measure.

    Attributes:
        rounds: How often each contestant runs, after a first run that does not count.
        limit: Seconds that a contestant may take to load, and to run first; None sets no limit.
        keep_going: Whether a contestant that fails, other than the first, is reported rather than
            ending the measurement.
        row_seconds: A contestant other than the first whose counted runs have taken so long in all
            runs no more; each gets one. None sets no limit.
    """

    rounds: int
    limit: float | None = None
    keep_going: bool = False
    row_seconds: float | None = None

    def enough(self, wall: Sequence[float]) -> bool:
        """Whether runs of these seconds are all that a contestant gets."""
        return self.row_seconds is not None and sum(wall) >= self.row_seconds


@dataclass(frozen=True)
class Measured:
    """The lanes, in the contestants' order, and the shapes of the feed that was used."""

    lanes: tuple[Lane, ...]
    gemm: Lane
    feed_shapes: Shapes
    interrupted: bool


def run_rounds(
    contestants: Sequence[Contestant],
    gemm: Gemm,
    trials: Iterable[tuple[Shapes, Feed]],
    rules: Rules,
    notify: Notify,
) -> Measured:
    """Measure the contestants on one feed, the first of the trials that the first of them runs on.

    Ctrl-C ends the rounds early; it is let through where nothing was measured yet.

    Raises:
        UserError: no trial runs, or a contestant fails and `rules.keep_going` is not set.
    """
    steps = _Steps(notify, (len(contestants) + 1) * (rules.rounds + 1))
    with ExitStack() as processes:
        first = _Entrant(contestants[0].label)
        others = [_Entrant(contestant.label) for contestant in contestants[1:]]
        roof = _Entrant(gemm.label)
        steps.next(f"loading {first.lane.label}")
        shapes, feed, reference = first.start_on(contestants[0], trials, processes, rules.limit)
        for entrant, contestant in zip(others, contestants[1:], strict=True):
            steps.next(f"loading {entrant.lane.label}")
            with entrant.tolerating(rules.keep_going):
                outputs = entrant.start(contestant, feed, processes, rules.limit)
                entrant.compare(reference, outputs)
        steps.next(f"loading {gemm.label}")
        with roof.tolerating(True):
            roof.start(gemm, gemm.feed(), processes, rules.limit)
        del reference
        entrants = (first, *others, roof)
        interrupted = False
        try:
            for number in range(rules.rounds):
                for entrant in entrants:
                    steps.next(f"round {number + 1} of {rules.rounds}: {entrant.lane.label}")
                    with entrant.tolerating(rules.keep_going and entrant is not first):
                        if entrant is first or not rules.enough(entrant.lane.wall):
                            entrant.run()
        except KeyboardInterrupt:
            if not first.lane.samples:
                raise
            interrupted = True
    lanes = tuple(entrant.lane for entrant in (first, *others))
    return Measured(lanes, roof.lane, shapes, interrupted)


class _Steps:
    def __init__(self, notify: Notify, total: int) -> None:
        self._notify, self._total, self._done = notify, total, -1

    def next(self, what: str) -> None:
        self._done += 1
        self._notify(what, self._done, self._total)


@dataclass
class _Entrant:
    """A contestant's process, once it has started, and what it has done so far."""

    label: str
    lane: Lane = field(init=False)
    worker: Worker | None = None

    def __post_init__(self) -> None:
        self.lane = Lane(self.label)

    def start(
        self, contestant: Contestant, feed: Feed, processes: ExitStack, limit: float | None
    ) -> dict[str, Array]:
        """Load, and run once; returns the outputs."""
        self._load(contestant, processes, limit)
        return self._first_run(feed)

    def start_on(
        self,
        contestant: Contestant,
        trials: Iterable[tuple[Shapes, Feed]],
        processes: ExitStack,
        limit: float | None,
    ) -> tuple[Shapes, Feed, dict[str, Array]]:
        """Load, and run on the first feed that will do; returns it with its shapes and outputs."""
        self._load(contestant, processes, limit)
        refused: list[RunError] = []
        for shapes, feed in trials:
            try:
                return shapes, feed, self._first_run(feed)
            except RunError as error:
                refused.append(error)
        if len(refused) == 1:
            raise refused[0]
        raise UserError(
            f"{self.label} runs at none of the sizes tried for its dynamic dimensions; give one "
            f"by --shape (the last try: {refused[-1]})"
        )

    def compare(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Note the output that is furthest from the reference."""
        missing = reference.keys() - outputs.keys()
        if missing:
            raise UserError(f"{self.label} has no output {min(missing)}.")
        found = [difference(name, array, outputs[name]) for name, array in reference.items()]
        self.lane = replace(self.lane, difference=max(found, key=_badness))

    def run(self) -> None:
        """One round's run; nothing if an earlier one failed."""
        if self.worker is not None and not self.lane.failure:
            ran = self.worker.run()
            self.lane = self.lane.with_sample(ran.sample, ran.memory)

    def fail(self, reason: str) -> None:
        """Note the reason, and end the process, which may still be at work."""
        self.lane = replace(self.lane, failure=reason)
        if self.worker is not None:
            self.worker.close()

    def tolerating(self, tolerant: bool) -> _Tolerance:
        """A context in which a `UserError`, if `tolerant`, is noted and goes no further."""
        return _Tolerance(self, tolerant)

    def _load(self, contestant: Contestant, processes: ExitStack, limit: float | None) -> None:
        self.worker = processes.enter_context(Worker(contestant, limit))
        loaded = self.worker.loaded
        self.lane = replace(self.lane, description=loaded.description, load_seconds=loaded.seconds)

    def _first_run(self, feed: Feed) -> dict[str, Array]:
        assert self.worker is not None
        ran, outputs = self.worker.first_run(feed)
        self.lane = replace(self.lane, memory=ran.memory)
        return outputs


@dataclass
class _Tolerance:
    entrant: _Entrant
    tolerant: bool

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not self.tolerant or not isinstance(error, UserError):
            return False
        self.entrant.fail(str(error))
        return True


def _badness(found: OutputDifference) -> tuple[bool, bool, float]:
    incomparable = bool(found.problem)
    return incomparable, bool(found.nonfinite_unequal), 0.0 if incomparable else found.max_abs
