"""Measure contestants that compute the same function as one ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from converter.bench.contestants import Gemm, OnnxGraph
from converter.bench.flops import direct_arithmetic
from converter.bench.machine import describe_machine
from converter.bench.result import BenchResult
from converter.bench.rounds import Notify, Rules, run_rounds
from converter.bench.worker import Contestant
from converter.compare.feeds import Shapes, make_feed, shape_ladder
from converter.compare.interface import check_same, load_skeleton, read_interface
from converter.errors import UserError
from converter.providers import AUTO, choose
from converter.session import PLAIN, SessionSettings


@dataclass(frozen=True)
class Request:
    """What to measure on.

    Attributes:
        rules: See `converter.bench.rounds`.
        shapes: Input name -> shape, where the graph leaves dimensions open.
        seed: Of the feed.
        provider: Execution provider of onnxruntime, for the GEMM too.
        settings: Of the graphs' sessions; that of the GEMM is not strict.
        threads: Of one operator on the CPU; None leaves it to the runtime.
    """

    rules: Rules
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    provider: str = AUTO
    settings: SessionSettings = PLAIN
    threads: int | None = None


def bench_graphs(paths: Sequence[Path], request: Request, notify: Notify) -> BenchResult:
    """Measure ONNX graphs of the same inputs and outputs against the first of them.

    Raises:
        UserError: a file is not readable, the graphs differ in inputs or outputs, or one does not
            run.
    """
    provider = choose(request.provider).name
    interface = read_interface(load_skeleton(paths[0]), paths[0])
    for path in paths[1:]:
        try:
            check_same(interface, read_interface(load_skeleton(path), path))
        except UserError as error:
            raise UserError(f"{path} cannot be measured against {paths[0]}: {error}") from error
    graphs = [
        OnnxGraph(str(path), path, provider, request.threads, request.settings) for path in paths
    ]
    return bench(paths[0], graphs, request, notify)


def bench(
    model: Path, contestants: Sequence[Contestant], request: Request, notify: Notify
) -> BenchResult:
    """Measure contestants that take and give what the graph at `model` does.

    Args:
        model: Says inputs, outputs and the arithmetic of one run.
        contestants: The first is what the others are compared with.
        request: What to measure on, and how.
        notify: Hears of every step.

    Raises:
        UserError: as `converter.bench.rounds.run_rounds` and `make_feed` raise it.
    """
    machine = describe_machine()
    skeleton = load_skeleton(model)
    inputs = read_interface(skeleton, model).inputs
    ladder = shape_ladder(inputs, skeleton, request.shapes)
    trials = ((shapes, make_feed(inputs, shapes, request.seed)) for shapes in ladder)
    gemm = Gemm(choose(request.provider).name, request.threads, settings=request.settings)
    measured = run_rounds(contestants, gemm, trials, request.rules, notify)
    operations, reason = _operations(model, measured.feed_shapes)
    notes = [
        f"{lane.label}: not measured: {lane.failure}"
        for lane in (*measured.lanes, measured.gemm)
        if lane.failure
    ]
    done = max(len(lane.samples) for lane in measured.lanes)
    notes += [
        f"{lane.label}: {len(lane.samples)} of {done} rounds, which took {sum(lane.wall):.0f} s"
        for lane in measured.lanes
        if not lane.failure and request.rules.enough(lane.wall) and len(lane.samples) < done
    ]
    if reason:
        notes.append(f"GFLOP/s are not given: {reason}")
    return BenchResult(
        lanes=measured.lanes,
        gemm=measured.gemm,
        rounds=request.rules.rounds,
        feed_shapes=measured.feed_shapes,
        seed=request.seed,
        threads=request.threads,
        operations=operations,
        interrupted=measured.interrupted,
        machine=machine,
        notes=tuple(notes),
    )


def _operations(model: Path, feed_shapes: Shapes) -> tuple[int | None, str]:
    """The direct arithmetic of one run, or why it is not known."""
    try:
        arithmetic = direct_arithmetic(model, feed_shapes)
    except UserError as error:  # a runtime may take what ONNX's checker does not
        return None, str(error)
    if arithmetic.uncounted:
        nodes = ", ".join(arithmetic.uncounted[:3])
        more = len(arithmetic.uncounted) - 3
        beyond = f" and {more} more" if more > 0 else ""
        return None, f"the shapes around {nodes}{beyond} cannot be inferred."
    return arithmetic.total, "" if arithmetic.total else "the graph has no products to count."
