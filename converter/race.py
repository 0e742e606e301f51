"""A tuned graph must win as a whole: it is timed beside the original and what `auto` estimates.

The fastest strategy of each Conv3D alone need not be the fastest together: between two that differ
a tensor may have to change its layout. So whole graphs run in interleaved rounds, each in a process
of its own, and the plan that wins is the one that is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converter import accuracy, attempts, output_files
from converter.choice import Choice, Chooser
from converter.conv3d import Conv3D
from converter.convert import Notify, Options, run_once
from converter.errors import UserError
from converter.plan import AUTO, Plan
from converter.result import ConvertResult
from converter.rewrites import KEEP
from converter.tune import NOISE, Tuner

ORIGINAL, TUNED, UNTUNED = "original", "tuned", "untuned"

ROUNDS = range(3, 16)
"""How many rounds: as many as fit `SECONDS`, by the times of the layers alone."""

SECONDS = 30.0

Times = Mapping[str, Sequence[float]]
"""Name of a plan -> seconds of its graph, one a round; the original is the first."""


@dataclass(frozen=True)
class Verdict:
    """The plan that won, and the times in a sentence."""

    winner: str
    sentence: str


def run(source: Path, output: Path | None, options: Options, notify: Notify) -> ConvertResult:
    """`converter.attempts.run`, with the plan that wins as a whole where `auto` is to be tuned.

    Raises:
        UserError: bad input or usage; nothing was written.
    """
    tuned = isinstance(options.choose, Tuner) and options.strategy == AUTO
    if not tuned or output is None or options.dry_run:
        return attempts.run(source, output, options, notify)
    output_files.refuse_to_replace(output, options.overwrite)
    planned = {
        TUNED: _plan(source, options, notify),
        UNTUNED: _plan(source, replace(options, choose=None), notify),
    }
    options = replace(options, choose=_follow(planned[TUNED]))
    if not planned[TUNED].entries:
        return attempts.run(source, output, options, notify)
    note = _obstacle(source, options)
    if not note:
        try:
            verdict = judge(_time(source, planned, options, notify))
        except UserError as error:  # such as a type that the provider has no kernels for
            note = f"not timed as a whole: {error}"
        else:
            note = verdict.sentence
            options = _settled(options, verdict, planned)
    result = attempts.run(source, output, options, notify)
    return replace(result, notes=(*result.notes, note))


def judge(times: Times) -> Verdict:
    """The faster of the two plans, or the original where it is faster beyond noise; by medians."""
    from converter.bench.statistics import speedups, spread

    medians = {name: spread(seconds).median for name, seconds in times.items()}
    plans = [name for name in medians if name != ORIGINAL]
    best = min(plans, key=lambda name: medians[name])
    winner = ORIGINAL if medians[ORIGINAL] * NOISE < medians[best] else best
    parts = [f"{ORIGINAL} {medians[ORIGINAL]:.3g} s"]
    for name in plans:
        ratios = spread(speedups(times[ORIGINAL], times[name]))
        parts.append(
            f"{name} {medians[name]:.3g} s, {ratios.median:.2f}x "
            f"[{ratios.lower_quartile:.2f} {ratios.upper_quartile:.2f}]"
        )
    does = "no Conv3D is rewritten" if winner == ORIGINAL else f"the {winner} plan is taken"
    rounds = len(times[ORIGINAL])
    return Verdict(winner, f"whole graphs, {rounds} rounds: {'; '.join(parts)}: {does}")


def _plan(source: Path, options: Options, notify: Notify) -> Plan:
    return run_once(source, None, replace(options, dry_run=True), notify).plan


def _budget(options: Options) -> float | None:
    return None if options.min_psnr is None else accuracy.error_at(options.min_psnr)


def _time(
    source: Path, planned: Mapping[str, Plan], options: Options, notify: Notify
) -> dict[str, list[float]]:
    """Seconds of the original and of each different plan's graph."""
    from converter.bench.bench import Request, bench
    from converter.bench.contestants import OnnxGraph
    from converter.bench.rounds import Rules
    from converter.providers import choose

    provider = choose(options.provider).name
    plain = replace(options, validate=False, strict=False, overwrite=True)
    settings = replace(options.session_settings, strict=False)
    with tempfile.TemporaryDirectory(prefix="convert-vae-tune-") as folder:
        paths = {ORIGINAL: source}
        for name, plan in _different(planned).items():
            paths[name] = Path(folder) / f"{name}.onnx"
            chosen = replace(plain, choose=_follow(plan))
            run_once(source, paths[name], chosen, lambda phase: None, _budget(options))
        rules = Rules(_rounds(planned[TUNED], len(paths)))
        request = Request(rules, options.shapes, options.seed, options.provider, settings)
        graphs = [OnnxGraph(n, path, provider, None, settings) for n, path in paths.items()]
        result = bench(source, graphs, request, _told(notify))
    if result.interrupted:
        raise KeyboardInterrupt
    return {lane.label: lane.wall for lane in result.lanes}


def _told(notify: Notify) -> Callable[[str, int, int], None]:
    return lambda what, done, total: notify(f"timing whole graphs, {done} of {total}: {what}")


def _different(planned: Mapping[str, Plan]) -> dict[str, Plan]:
    """The plans, without the untuned one where it is the tuned one."""
    strategies = [[entry.strategy for entry in plan.entries] for plan in planned.values()]
    same = strategies[0] == strategies[1]
    return {name: plan for name, plan in planned.items() if name == TUNED or not same}


def _rounds(plan: Plan, graphs: int) -> int:
    seconds = sum(entry.seconds.get(entry.strategy, 0.0) for entry in plan.entries)
    wanted = int(SECONDS / (graphs * seconds)) if seconds else ROUNDS.stop
    return max(ROUNDS.start, min(wanted, ROUNDS.stop - 1))


def _settled(options: Options, verdict: Verdict, planned: Mapping[str, Plan]) -> Options:
    if verdict.winner != ORIGINAL:
        return replace(options, choose=_follow(planned[verdict.winner]))
    keep = Choice(KEEP, "the original is faster as a whole")
    return replace(options, choose=lambda conv: keep, layout=False)


def _follow(plan: Plan) -> Chooser:
    """A chooser that takes what a plan of the same graph took."""
    taken = {
        entry.node: Choice(
            entry.strategy, entry.reason, entry.refused, entry.seconds, entry.given_up_for
        )
        for entry in plan.entries
    }

    def choose(conv: Conv3D) -> Choice:
        return taken[conv.name]

    return choose


def _obstacle(source: Path, options: Options) -> str:
    """Why the whole graph cannot be timed at its real sizes; empty where it can."""
    from converter.compare.interface import load_skeleton, read_interface

    interface = read_interface(load_skeleton(source), source)
    names = [
        tensor.name
        for tensor in interface.inputs
        if tensor.name not in options.shapes
        and not all(isinstance(d, int) for d in tensor.dims or (None,))
    ]
    if not names:
        return ""
    return f"not timed as a whole: sizes of {', '.join(names)} are open; --shape gives them"
