"""What a comparison of several candidates with one reference found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.compare.detail import OutputDetail
from converter.compare.feeds import Shapes
from converter.compare.gates import Failure, Gates, Limits, options, passing
from converter.compare.histogram import Histogram
from converter.compare.jsonable import jsonable
from converter.compare.layers import LayerReport
from converter.compare.pictures import Strip

SCHEMA = "convert-vae.diff"
SCHEMA_VERSION = 1
"""Changes when a key of the JSON goes or changes its meaning; new keys may come at any time."""


@dataclass(frozen=True)
class OutputVerdict:
    """One output on one feed. `candidate_name` differs where outputs were paired by position."""

    feed: int
    candidate_name: str
    detail: OutputDetail
    histogram: Histogram | None
    failures: tuple[Failure, ...]

    @property
    def name(self) -> str:
        """The reference's name for the output."""
        return self.detail.difference.name

    @property
    def passing(self) -> Limits | None:
        """The tightest gates that it would pass; None where no gate would let it through."""
        return passing(self.detail)

    def sentence(self) -> str:
        """Which gates failed and what would have passed; empty when it passed."""
        if not self.failures:
            return ""
        reasons = "; ".join(failure.sentence for failure in self.failures)
        limits = self.passing
        advice = f"{options(limits)} would have passed" if limits else "no gate would pass it"
        return f"output {self.name}, feed {self.feed}: {reasons} ({advice})"

    def to_json(self) -> dict[str, Any]:
        """Every figure by name; a float that is not finite becomes None."""
        return {
            "feed": self.feed,
            "candidate_name": self.candidate_name,
            **self.detail.to_json(),
            "histogram": self.histogram.to_json() if self.histogram else None,
            "passed": not self.failures,
            "failures": [failure.to_json() for failure in self.failures],
            "passing": jsonable(self.passing),
        }


@dataclass(frozen=True)
class RunInfo:
    """One side: its file, what reports call it, what ran it, and the seconds of its runs without
    loading; None of a file of saved outputs.
    """

    path: Path
    label: str
    evaluator: str
    seconds: float | None


@dataclass(frozen=True)
class CandidateResult:
    """One candidate: its outputs on every feed, its layers if they were asked for, what the reader
    should know, the plan that conversion wrote into it, and pictures of a video on every feed.
    """

    run: RunInfo
    outputs: tuple[OutputVerdict, ...]
    notes: tuple[str, ...] = ()
    layers: LayerReport | None = None
    plan: tuple[Mapping[str, Any], ...] = ()
    pictures: tuple[Strip, ...] = field(default=(), compare=False)

    @property
    def passed(self) -> bool:
        """Whether every output passed its gates on every feed."""
        return not any(output.failures for output in self.outputs)

    @property
    def worst(self) -> OutputVerdict:
        """That of the least PSNR, of those that failed, or else of all."""
        failed = [output for output in self.outputs if output.failures]
        return min(failed or self.outputs, key=lambda o: o.detail.difference.psnr_db)

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.passed:
            return f"within the gates: {self.worst.detail.difference.figures()}"
        failed = [output for output in self.outputs if output.failures]
        more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
        return f"different: {self.worst.sentence()}{more}"

    def to_json(self) -> dict[str, Any]:
        """Every figure, as JSON can hold it."""
        return {
            "path": str(self.run.path),
            "label": self.run.label,
            "evaluator": self.run.evaluator,
            "seconds": self.run.seconds,
            "passed": self.passed,
            "sentence": self.sentence(),
            "notes": list(self.notes),
            "outputs": [output.to_json() for output in self.outputs],
            "layers": self.layers.to_json() if self.layers else None,
            "plan": jsonable(self.plan),
        }


@dataclass(frozen=True)
class FeedInfo:
    """Where a feed came from, and its shapes."""

    source: str
    shapes: Shapes


@dataclass(frozen=True)
class DiffResult:
    """Everything that a report shows."""

    reference: RunInfo
    candidates: tuple[CandidateResult, ...]
    feeds: tuple[FeedInfo, ...]
    gates: Gates
    data_range: float | None
    environment: Mapping[str, str]
    seconds: float
    command: str = ""

    @property
    def passed(self) -> bool:
        """Whether every candidate passed."""
        return all(candidate.passed for candidate in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary under a versioned schema."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "passed": self.passed,
            "reference": {**jsonable(self.reference), "path": str(self.reference.path)},
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "feeds": jsonable(self.feeds),
            "gates": self.gates.to_json(),
            "data_range": self.data_range,
            "environment": dict(self.environment),
            "command": self.command,
            "seconds": self.seconds,
        }
