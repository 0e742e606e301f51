"""What was measured, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from converter.bench.contestants import GEMM_OPERATIONS
from converter.bench.statistics import Spread, speedups, spread
from converter.bench.worker import Memory, Sample
from converter.compare.jsonable import jsonable
from converter.compare.output_difference import OutputDifference

RESULT_VERSION = 1


@dataclass(frozen=True)
class Lane:
    """One contestant and its runs.

    Attributes:
        description: What ran it, with its version.
        load_seconds: From nothing to ready.
        samples: A run each round; one fewer, or one more, than others where a round was broken off.
        memory: Of its process.
        difference: The output that is furthest from the first contestant's on the same feed; None
            for the first itself.
        failure: Why there are no samples, or no more of them; empty when all went well.
    """

    label: str
    description: str = ""
    load_seconds: float | None = None
    samples: tuple[Sample, ...] = ()
    memory: Memory | None = None
    difference: OutputDifference | None = None
    failure: str = ""

    @property
    def wall(self) -> list[float]:
        """Seconds by the clock, a run each."""
        return [sample.wall for sample in self.samples]

    @property
    def cpu(self) -> list[float]:
        """Processor seconds, a run each."""
        return [sample.cpu for sample in self.samples]

    @property
    def max_abs_error(self) -> float | None:
        """Against the first contestant; infinite where only one of the two is finite, None for the
        first itself, not a number where outputs cannot be compared.
        """
        if self.difference is None:
            return None
        return float("inf") if self.difference.nonfinite_unequal else self.difference.max_abs

    def with_sample(self, sample: Sample, memory: Memory) -> Lane:
        """The lane after one more run."""
        return replace(self, samples=(*self.samples, sample), memory=memory)


@dataclass(frozen=True)
class Figures:
    """A lane in figures. `speedup` is against the first lane, pair by pair: 2 is half the time.

    `gflops` counts the first graph's direct arithmetic, whatever the lane really computes.
    `of_gemm` is the same as a share of what the GEMM reached in the same round; `of_gemm_cpu` holds
    the operations of a processor second against the GEMM's.
    """

    wall: Spread
    cpu: Spread
    wall_speedup: Spread
    cpu_speedup: Spread
    gflops: float | None
    of_gemm: float | None
    of_gemm_cpu: float | None


@dataclass(frozen=True)
class BenchResult:
    """A measurement.

    Attributes:
        lanes: The contestants, the first being what the others are compared with.
        gemm: What arithmetic can reach here, measured in the same rounds.
        operations: Direct arithmetic of one run of the first graph; None where it is not known.
        notes: What the reader should know, a sentence each.
    """

    lanes: tuple[Lane, ...]
    gemm: Lane
    rounds: int
    feed_shapes: Mapping[str, tuple[int, ...]]
    seed: int
    threads: int | None
    operations: int | None
    interrupted: bool
    machine: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @cached_property
    def figures(self) -> tuple[Figures | None, ...]:
        """For each lane; None where it was never run."""
        return tuple(self._figures(lane) for lane in self.lanes)

    @property
    def gemm_gflops(self) -> float | None:
        """What the GEMM reached, by the median."""
        wall = self.gemm.wall
        return GEMM_OPERATIONS / spread(wall).median / 1e9 if wall else None

    def _figures(self, lane: Lane) -> Figures | None:
        first = self.lanes[0]
        pairs = speedups(first.wall, lane.wall)
        if not pairs:
            return None
        wall = spread(lane.wall)
        operations = self.operations
        return Figures(
            wall=wall,
            cpu=spread(lane.cpu),
            wall_speedup=spread(pairs),
            cpu_speedup=spread(speedups(first.cpu, lane.cpu)),
            gflops=None if operations is None else operations / wall.median / 1e9,
            of_gemm=_share(operations, self.gemm.wall, lane.wall),
            of_gemm_cpu=_share(operations, self.gemm.cpu, lane.cpu),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; `version` changes when a key changes its meaning."""
        content = {
            "version": RESULT_VERSION,
            "machine": self.machine,
            "feed_shapes": self.feed_shapes,
            "seed": self.seed,
            "threads": self.threads,
            "rounds": self.rounds,
            "interrupted": self.interrupted,
            "operations": self.operations,
            "gemm": {**_lane_json(self.gemm), "gflops": self.gemm_gflops},
            "contestants": [
                {**_lane_json(lane), "figures": figures}
                for lane, figures in zip(self.lanes, self.figures, strict=True)
            ],
            "notes": self.notes,
        }
        typed: dict[str, Any] = jsonable(content)
        return typed


def _lane_json(lane: Lane) -> dict[str, Any]:
    return {
        "label": lane.label,
        "description": lane.description,
        "load_seconds": lane.load_seconds,
        "wall_samples": lane.wall,
        "cpu_samples": lane.cpu,
        "memory": lane.memory,
        "max_abs_error": lane.max_abs_error,
        "difference": lane.difference,
        "failure": lane.failure,
    }


def _share(operations: int | None, gemm: list[float], lane: list[float]) -> float | None:
    """The lane's operations a second over the GEMM's, the median over the rounds that both did."""
    ratios = speedups(gemm, lane)
    if operations is None or not ratios:
        return None
    return spread(ratios).median * operations / GEMM_OPERATIONS
