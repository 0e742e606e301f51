"""The same feed through two graphs, and a verdict on what comes out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.compare import feeds
from converter.compare import tolerance as tolerances
from converter.compare.feeds import Array, Shapes
from converter.compare.interface import (
    Interface,
    check_same,
    load_skeleton,
    read_interface,
)
from converter.compare.metrics import difference
from converter.compare.output_difference import OutputDifference as OutputDifference
from converter.compare.reference_evaluator import ReferenceRunner, TooMuchWorkError
from converter.compare.running import Ran, Runner, Seeded, run_first_legal, show_shapes
from converter.compare.tolerance import Tolerance as Tolerance
from converter.errors import UserError
from converter.providers import AUTO, Usable, choose, make_session
from converter.session import NotSupportedError, SessionSettings

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Validation:
    """What a comparison found. Times are those of the run alone, without loading."""

    passed: bool
    provider: Usable
    evaluator: str
    seed: int
    feed_shapes: Shapes
    tolerance: Tolerance
    needed: Tolerance | None
    outputs: tuple[OutputDifference, ...]
    reference_seconds: float
    candidate_seconds: float

    def sentence(self) -> str:
        """The verdict in one line, with the figures of the worst output."""
        if self.passed:
            worst = min(self.outputs, key=lambda output: output.psnr_db)
            return f"equal within tolerance: {worst.figures()} ({self.tolerance}; {self.evaluator})"
        reasons = "; ".join(
            f"output {output.name}: {reason}"
            for output in self.outputs
            if (reason := output.why_fails(self.tolerance))
        )
        needed = f"{self.needed} would have passed" if self.needed else "no tolerance would pass"
        return f"different: {reasons}; {needed} ({self.evaluator})"

    def to_json(self) -> dict[str, Any]:
        """Every figure, as JSON can hold it: a float that is not finite becomes None."""
        return {
            "passed": self.passed,
            "provider": self.provider.name,
            "provider_why_not": list(self.provider.why_not),
            "evaluator": self.evaluator,
            "seed": self.seed,
            "feed_shapes": {name: list(shape) for name, shape in self.feed_shapes.items()},
            "tolerance": self.tolerance.to_json(),
            "needed_tolerance": self.needed.to_json() if self.needed else None,
            "outputs": [output.to_json() for output in self.outputs],
            "reference_seconds": self.reference_seconds,
            "candidate_seconds": self.candidate_seconds,
        }


@dataclass(frozen=True)
class _Request:
    """What both ways to run a comparison need."""

    seeded: Seeded
    candidate: Path
    progress: Progress


@dataclass(frozen=True)
class _Outcome:
    """What both graphs made of the feed."""

    evaluator: str
    reference: Ran
    candidate: dict[str, Array]
    candidate_seconds: float


def validate(
    reference: str | Path,
    candidate: str | Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    provider: str = AUTO,
    settings: SessionSettings | None = None,
    tolerance: Tolerance | None = None,
    min_psnr: float | None = None,
    progress: Progress = lambda stage: None,
) -> Validation:
    """Run both graphs on one seeded feed and judge the difference.

    `settings` are those of the sessions; only the candidate's is strict. `shapes` fixes the shape
    of inputs by name; other dynamic dimensions get the smallest sizes
    that the reference runs on. Without `tolerance` it follows from the precision of the graphs, and
    from `min_psnr` in dB if that is given.
    The two graphs are never loaded at the same time. Raises `UserError` when the interfaces
    differ or a graph does not run.
    """
    usable = choose(provider)
    before, after = load_skeleton(reference), load_skeleton(candidate)
    interface = read_interface(before, reference)
    check_same(interface, read_interface(after, candidate))
    if tolerance is None:
        tolerance = _tolerance_of(interface, before, after)
    if min_psnr is not None:
        tolerance = tolerance.at(min_psnr)
    ladder = tuple(feeds.shape_ladder(interface.inputs, before, shapes or {}))
    del before, after
    seeded = Seeded(Path(reference), interface.inputs, ladder, seed)
    request = _Request(seeded, Path(candidate), progress)
    outcome = _run_both(request, usable, settings)
    differences = tuple(
        difference(name, array, outcome.candidate[name])
        for name, array in outcome.reference.outputs.items()
    )
    shown = show_shapes(outcome.reference.shapes)
    if not any(output.size for output in outcome.reference.outputs.values()):
        raise UserError(
            f"every output of {reference} is empty at {shown}, so there is nothing to compare; "
            "give larger sizes by --shape."
        )
    return Validation(
        passed=not any(output.why_fails(tolerance) for output in differences),
        provider=usable,
        evaluator=outcome.evaluator,
        seed=seed,
        feed_shapes=outcome.reference.shapes,
        tolerance=tolerance,
        needed=_needed(differences),
        outputs=differences,
        reference_seconds=outcome.reference.seconds,
        candidate_seconds=outcome.candidate_seconds,
    )


def _run_both(request: _Request, usable: Usable, settings: SessionSettings | None) -> _Outcome:
    """In onnxruntime, or both in the reference evaluator if it lacks a kernel for either."""

    def make(path: Path) -> Runner:
        own = settings or SessionSettings()
        if path != request.candidate:
            own = replace(own, strict=False)
        return make_session(path, usable.name, own)

    try:
        return _run_with(make, request)
    except NotSupportedError as error:
        lacking = str(error)  # the error itself would keep the session that raised it
    request.progress("onnxruntime cannot run the graph; running the ONNX reference evaluator")
    try:
        return _run_with(ReferenceRunner, request)
    except TooMuchWorkError as error:
        raise TooMuchWorkError(f"{error} ({lacking})") from error


def _run_with(make_runner: Callable[[Path], Runner], request: _Request) -> _Outcome:
    request.progress("running the original graph")
    runner = make_runner(request.seeded.path)
    first = run_first_legal(runner, request.seeded)
    del runner
    gc.collect()  # a failed try, or the evaluator's own cycle, may still hold the first graph
    request.progress("running the converted graph")
    runner = make_runner(request.candidate)
    start = time.perf_counter()
    candidate = runner.run(first.feed)
    candidate_seconds = time.perf_counter() - start
    request.progress("comparing")
    return _Outcome(runner.description, first, candidate, candidate_seconds)


def _tolerance_of(interface: Interface, *models: Any) -> Tolerance:
    types = {output.elem_type for output in interface.outputs}
    for model in models:
        types |= tolerances.working_types(model)
    return tolerances.for_types(*types)


def _needed(differences: tuple[OutputDifference, ...]) -> Tolerance | None:
    needed = [output.needed() for output in differences]
    if any(one is None for one in needed):
        return None
    worst = Tolerance(float("inf"), 0.0)
    for one in needed:
        if one is not None:
            worst = replace(
                worst,
                min_psnr_db=min(worst.min_psnr_db, one.min_psnr_db),
                max_abs_of_range=max(worst.max_abs_of_range, one.max_abs_of_range),
            )
    return worst
