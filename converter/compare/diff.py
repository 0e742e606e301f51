"""The same feeds through a reference and several candidates, and every output compared."""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.compare import tolerance as tolerances
from converter.compare.detail import detail
from converter.compare.diff_result import (
    CandidateResult,
    DiffResult,
    OutputVerdict,
    RunInfo,
)
from converter.compare.feed_files import write_npz
from converter.compare.feeding import Feed, FeedPlan, Notify, cast_feed, make_feeds
from converter.compare.feeds import Array
from converter.compare.gates import Gates, failures
from converter.compare.histogram import histogram
from converter.compare.layers import SLICE, LayerReport, compare_layers
from converter.compare.pictures import Strip, strip
from converter.compare.reference_evaluator import ReferenceRunner
from converter.compare.running import make_runner
from converter.compare.sides import (
    Graph,
    Saved,
    Side,
    alike,
    open_side,
    pair,
    pair_inputs,
)
from converter.compare.spool import Spool
from converter.errors import UserError
from converter.providers import AUTO, choose
from converter.session import PLAIN, NotSupportedError, SessionSettings
from converter.version import VERSION

PLAN_KEY = "convert_vae.plan"


@dataclass(frozen=True)
class DiffRequest:
    """How to compare.

    Attributes:
        feeds: What to feed.
        data_range: What PSNR and SSIM of frames refer to; None for the reference's own range.
        frames: Whether to compare frame by frame, which needs scikit-image.
        pictures: Whether to keep pictures of the first video output, for a report.
        layers: Whether to compare layer by layer on the first feed, `slice_size` in one run.
        settings: Of the sessions; only the candidates' are strict.
        save_inputs: An .npz to save the feeds in.
        save_outputs: A folder for one .npz of outputs a graph.
    """

    feeds: FeedPlan = field(default_factory=FeedPlan)
    gates: Gates = field(default_factory=Gates)
    provider: str = AUTO
    settings: SessionSettings = PLAIN
    data_range: float | None = None
    frames: bool = True
    pictures: bool = False
    layers: bool = False
    slice_size: int = SLICE
    save_inputs: Path | None = None
    save_outputs: Path | None = None


@dataclass(frozen=True)
class _Outputs:
    """What one side gave for every feed."""

    info: RunInfo
    runs: tuple[dict[str, Array], ...]


def diff(
    reference: Path,
    candidates: tuple[Path, ...],
    request: DiffRequest,
    notify: Notify = lambda stage: None,
) -> DiffResult:
    """Run every graph on every feed and judge each output; one graph is loaded at a time.

    Outputs wait on the disk, so memory holds those of one run. Raises `UserError` when a file
    cannot be read, interfaces do not match, or a graph does not run.
    """
    start = time.perf_counter()
    sides = tuple(open_side(path) for path in (reference, *candidates))
    lead = next((side for side in sides if isinstance(side, Graph)), None)
    _check_request(request, lead, sides)
    for side in sides:
        if lead is not None and isinstance(side, Graph):
            pair_inputs(lead, side)
    spool = Spool()
    with spool:
        loose = replace(request, settings=replace(request.settings, strict=False))
        made = (
            make_feeds(lead, request.feeds, loose.provider, loose.settings, notify) if lead else ()
        )
        outputs = [_run_side(sides[0], lead, made, loose, spool, notify)]
        outputs += [_run_side(side, lead, made, request, spool, notify) for side in sides[1:]]
        _save(request, made, sides, outputs)
        gates = _with_default(request.gates, sides)
        request = replace(request, gates=gates)
        results = tuple(
            replace(
                _compare(sides[0], side, outputs[0], found, request, notify),
                layers=_layers(sides[0], side, made, replace(loose, gates=gates), notify),
            )
            for side, found in zip(sides[1:], outputs[1:], strict=True)
        )
    return DiffResult(
        reference=outputs[0].info,
        candidates=results,
        feeds=tuple(feed.info for feed in made),
        gates=gates,
        data_range=request.data_range,
        environment=environment(),
        seconds=time.perf_counter() - start,
    )


def environment() -> dict[str, str]:
    """The versions that the figures depend on."""
    found = {
        "convert-vae": VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    try:
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        pass
    return found


def _check_request(request: DiffRequest, lead: Graph | None, sides: tuple[Side, ...]) -> None:
    if len(sides) < 2 and not (request.save_inputs or request.save_outputs):
        raise UserError("name a candidate to compare with, or save the outputs by --save-outputs.")
    if lead is None and (request.feeds.files or request.save_inputs or request.save_outputs):
        raise UserError("feeds and saved outputs need a graph, and every file here is an .npz.")
    if request.layers and not all(isinstance(side, Graph) for side in sides):
        raise UserError("--layers needs graphs: saved outputs hold no layers.")
    if request.save_outputs:
        names = [side.path.stem for side in sides if isinstance(side, Graph)]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise UserError(
                f"--save-outputs would write {min(twice)}.npz twice; rename one of the graphs."
            )
    if lead is not None:
        choose(request.provider)


def _run_side(
    side: Side,
    lead: Graph | None,
    made: tuple[Feed, ...],
    request: DiffRequest,
    spool: Spool,
    notify: Notify,
) -> _Outputs:
    if isinstance(side, Saved):
        if made and len(made) != len(side.runs):
            raise UserError(
                f"{side.path} holds the outputs of {len(side.runs)} feeds, but there are "
                f"{len(made)}; give the same feeds by --feed."
            )
        return _Outputs(RunInfo(side.path, "saved outputs", None), side.runs)
    assert lead is not None
    notify(f"running {side.path.name}")
    inputs = pair_inputs(lead, side)
    gc.collect()  # the graph before may still be held by a cycle
    runner = make_runner(side.path, request.provider, request.settings)
    runs, seconds = [], 0.0
    for feed in made:
        arrays = cast_feed(feed.arrays, inputs)
        start = time.perf_counter()
        try:
            found = runner.run(arrays)
        except NotSupportedError:
            runner = ReferenceRunner(side.path)
            start = time.perf_counter()
            found = runner.run(arrays)
        seconds += time.perf_counter() - start
        runs.append(spool.put(found))
    return _Outputs(RunInfo(side.path, runner.description, seconds), tuple(runs))


def _save(
    request: DiffRequest, made: tuple[Feed, ...], sides: tuple[Side, ...], outputs: list[_Outputs]
) -> None:
    if request.save_inputs:
        write_npz(request.save_inputs, [feed.arrays for feed in made])
    if request.save_outputs:
        request.save_outputs.mkdir(exist_ok=True)
        for side, found in zip(sides, outputs, strict=True):
            if isinstance(side, Graph):
                write_npz(request.save_outputs / f"{side.path.stem}.npz", found.runs)


def _with_default(gates: Gates, sides: tuple[Side, ...]) -> Gates:
    """Where no gate is given, what the precision of the graphs explains; fp32's for saved ones."""
    types: set[int] = set()
    for side in sides:
        if isinstance(side, Graph):
            types |= {output.elem_type for output in side.interface.outputs}
            types |= tolerances.working_types(side.skeleton)
    return replace(gates, default=gates.default or tolerances.for_types(*types))


def _compare(
    left: Side,
    right: Side,
    reference: _Outputs,
    candidate: _Outputs,
    request: DiffRequest,
    notify: Notify,
) -> CandidateResult:
    notify(f"comparing {right.path.name}")
    if len(reference.runs) != len(candidate.runs):
        raise UserError(
            f"{left.path} holds the outputs of {len(reference.runs)} feeds, {right.path} of "
            f"{len(candidate.runs)}."
        )
    names = pair("outputs", left, right, left.output_names, right.output_names)
    for name in request.gates.by_output:
        if name not in names:
            raise UserError(f"a gate names the output {name!r}; there are: {', '.join(names)}.")
    verdicts = tuple(
        _verdict(feed, (name, other), (one[name], two[other]), request)
        for feed, (one, two) in enumerate(zip(reference.runs, candidate.runs, strict=True))
        for name, other in names.items()
    )
    if not any(verdict.detail.difference.shape.count(0) == 0 for verdict in verdicts):
        raise UserError(f"every output of {left.path} is empty, so there is nothing to compare.")
    notes = [
        f"paired by position: output {name} is {other} in {right.path}"
        for name, other in names.items()
        if name != other
    ]
    types = {n: (reference.runs[0][n].dtype, candidate.runs[0][o].dtype) for n, o in names.items()}
    notes += [
        f"output {name} is {one} in the reference and {two} in the candidate; compared in the wider"
        for name, (one, two) in types.items()
        if one != two
    ]
    pictures = _pictures(names, reference, candidate) if request.pictures else None
    return CandidateResult(
        candidate.info, verdicts, tuple(notes), plan=_plan(right), pictures=pictures
    )


def _verdict(
    feed: int, names: tuple[str, str], arrays: tuple[Array, Array], request: DiffRequest
) -> OutputVerdict:
    one, two = alike(*arrays)
    found = detail(
        names[0],
        one,
        two,
        rtol=request.gates.of(names[0]).rtol or 0.0,
        data_range=request.data_range,
        frames=request.frames,
    )
    comparable = one.shape == two.shape and one.dtype == two.dtype
    counts = histogram(one, two) if comparable else None
    return OutputVerdict(feed, names[1], found, counts, failures(found, request.gates))


def _pictures(names: Mapping[str, str], reference: _Outputs, candidate: _Outputs) -> Strip | None:
    """Of the first output that can be shown, on the first feed."""
    for name, other in names.items():
        found = strip(name, *alike(reference.runs[0][name], candidate.runs[0][other]))
        if found:
            return found
    return None


def _layers(
    left: Side, right: Side, made: tuple[Feed, ...], request: DiffRequest, notify: Notify
) -> LayerReport | None:
    if not (request.layers and isinstance(left, Graph) and isinstance(right, Graph)):
        return None
    assert request.gates.default is not None
    return compare_layers(
        left.path,
        right.path,
        made[0].arrays,
        pair_inputs(left, right),
        budget=request.gates.default,
        provider=request.provider,
        settings=request.settings,
        slice_size=request.slice_size,
        notify=lambda stage: notify(f"{right.path.name}: {stage}"),
    )


def _plan(side: Side) -> tuple[Mapping[str, Any], ...]:
    """The plan that conversion wrote into the model; empty where it did not."""
    if isinstance(side, Saved):
        return ()
    texts = {entry.key: entry.value for entry in side.skeleton.metadata_props}
    try:
        plan = json.loads(texts.get(PLAN_KEY, "{}"))
        entries = plan.get("conv3d", ())
        return tuple(entry for entry in entries if isinstance(entry, dict))
    except (ValueError, AttributeError):
        return ()
