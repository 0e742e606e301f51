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
from converter.compare.reference_evaluator import ReferenceRunner
from converter.compare.showing import with_pictures
from converter.compare.side_by_side import check_video_path, write_side_by_side
from converter.compare.sides import (
    Graph,
    Runnable,
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
        video: An .mp4 or .webm of that output: reference, candidate, difference side by side.
        layers: Whether to compare layer by layer, `slice_size` in one run.
        weights_seed: Of the weights of `torch:` sides that come without any.
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
    video: Path | None = None
    layers: bool = False
    slice_size: int = SLICE
    weights_seed: int | None = None
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
    if request.video:
        check_video_path(request.video)
    sides = tuple(open_side(path, request.weights_seed) for path in (reference, *candidates))
    lead = _lead(sides)
    _check_request(request, lead, sides)
    for side in sides:
        if lead is not None and isinstance(side, Runnable):
            pair_inputs(lead, side)
    spool = Spool()
    with spool:
        loose = replace(request, settings=replace(request.settings, strict=False))
        made = (
            make_feeds(lead, request.feeds, loose.provider, loose.settings, notify) if lead else ()
        )
        outputs = [_run_side(sides[0], lead, made, loose, spool, notify)]
        outputs += [_run_side(side, lead, made, request, spool, notify) for side in sides[1:]]
        labels = _labels(sides)
        outputs = [
            replace(found, info=replace(found.info, label=labels[found.info.path]))
            for found in outputs
        ]
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
        runs = outputs[0].runs, [found.runs for found in outputs[1:]]
        if request.pictures:
            results = with_pictures(results, *runs)
        if request.video:
            notify(f"writing {request.video.name}")
            write_side_by_side(request.video, outputs[0].info.label, results, *runs)
    return DiffResult(
        reference=outputs[0].info,
        candidates=results,
        feeds=tuple(feed.info for feed in made),
        gates=gates,
        data_range=request.data_range,
        environment=environment(),
        seconds=time.perf_counter() - start,
    )


def _lead(sides: tuple[Side, ...]) -> Runnable | None:
    """What feeds are made for: the first graph, else the first side that takes feeds at all."""
    takes_feeds = [side for side in sides if isinstance(side, Runnable)]
    return next(
        (side for side in takes_feeds if isinstance(side, Graph)), next(iter(takes_feeds), None)
    )


def _labels(sides: tuple[Side, ...]) -> dict[Path, str]:
    """What reports call each side: by its name, or by its path where names are not different."""
    names = [side.label for side in {side.path: side for side in sides}.values()]
    return {
        side.path: side.label if names.count(side.label) == 1 else str(side.path) for side in sides
    }


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


def _check_request(request: DiffRequest, lead: Runnable | None, sides: tuple[Side, ...]) -> None:
    if len(sides) < 2 and not (request.save_inputs or request.save_outputs):
        raise UserError("name a candidate to compare with, or save the outputs by --save-outputs.")
    if lead is None and (request.feeds.files or request.save_inputs or request.save_outputs):
        raise UserError("feeds and saved outputs need a graph, and every file here is an .npz.")
    if request.layers and not all(isinstance(side, Graph) for side in sides):
        raise UserError(
            "--layers needs ONNX graphs: saved outputs and torch: decoders hold no layers."
        )
    if request.save_outputs:
        names = [side.stem for side in sides if isinstance(side, Runnable)]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise UserError(
                f"--save-outputs would write {min(twice)}.npz twice; rename one of them."
            )
    if lead is not None:
        choose(request.provider)


def _run_side(
    side: Side,
    lead: Runnable | None,
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
        return _Outputs(RunInfo(side.path, side.label, "saved outputs", None), side.runs)
    assert lead is not None
    notify(f"running {side.label}")
    inputs = pair_inputs(lead, side)
    gc.collect()  # the graph before may still be held by a cycle
    runner = side.runner(request.provider, request.settings)
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
    return _Outputs(RunInfo(side.path, side.label, runner.description, seconds), tuple(runs))


def _save(
    request: DiffRequest, made: tuple[Feed, ...], sides: tuple[Side, ...], outputs: list[_Outputs]
) -> None:
    if request.save_inputs:
        write_npz(request.save_inputs, [feed.arrays for feed in made])
    if request.save_outputs:
        request.save_outputs.mkdir(exist_ok=True)
        for side, found in zip(sides, outputs, strict=True):
            if isinstance(side, Runnable):
                write_npz(request.save_outputs / f"{side.stem}.npz", found.runs)


def _with_default(gates: Gates, sides: tuple[Side, ...]) -> Gates:
    """Where no gate is given, what the precision of the graphs explains; fp32's for saved ones."""
    types: set[int] = set()
    for side in sides:
        if isinstance(side, Runnable):
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
    notify(f"comparing {right.label}")
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
    return CandidateResult(candidate.info, verdicts, tuple(notes), plan=_plan(right))


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


def _layers(
    left: Side, right: Side, made: tuple[Feed, ...], request: DiffRequest, notify: Notify
) -> LayerReport | None:
    if not (request.layers and isinstance(left, Graph) and isinstance(right, Graph)):
        return None
    assert request.gates.default is not None
    return compare_layers(
        left.path,
        right.path,
        [feed.arrays for feed in made],
        pair_inputs(left, right),
        budget=request.gates.default,
        provider=request.provider,
        settings=request.settings,
        slice_size=request.slice_size,
        notify=lambda stage: notify(f"{right.label}: {stage}"),
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
