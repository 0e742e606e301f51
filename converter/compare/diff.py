"""The same feeds through a reference and several candidates, and every output compared."""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.compare import tolerance as tolerances
from converter.compare.detail import detail
from converter.compare.diff_request import DiffRequest as DiffRequest
from converter.compare.diff_result import (
    CandidateResult,
    DiffResult,
    OutputVerdict,
    RunInfo,
)
from converter.compare.feeding import Feed, Notify, cast_feed, make_feeds
from converter.compare.gates import Gates, failures
from converter.compare.histogram import histogram
from converter.compare.layers import LayerReport, compare_layers
from converter.compare.preflight import check_feeds, check_paths, check_sides
from converter.compare.reference_evaluator import ReferenceRunner
from converter.compare.saved_file import write_saved
from converter.compare.showing import with_pictures
from converter.compare.side_by_side import write_side_by_side
from converter.compare.sides import (
    Graph,
    Runnable,
    Saved,
    Side,
    alike,
    leading,
    not_alike,
    open_side,
    pair_inputs,
    spec_of,
)
from converter.compare.spool import Spool
from converter.compare.stored_array import AnyArray
from converter.errors import UserError
from converter.session import NotSupportedError
from converter.version import VERSION

PLAN_KEY = "convert_vae.plan"


@dataclass(frozen=True)
class _Outputs:
    """What one side gave for every feed."""

    info: RunInfo
    runs: tuple[dict[str, AnyArray], ...]


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
    paths = (reference, *candidates)
    check_paths(request, paths)
    spool = Spool(prefix="diff-vae-")
    with spool:
        sides = tuple(open_side(path, spool, request.weights_seed) for path in paths)
        lead = leading(sides)
        pairs = check_sides(request, lead, sides)
        loose = replace(request, settings=replace(request.settings, strict=False))
        made = (
            make_feeds(lead, request.feeds, loose.provider, loose.settings, notify) if lead else ()
        )
        check_feeds(request, lead, sides, made)
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
                _compare(side, names, outputs[0], found, request, notify),
                layers=_layers(sides[0], side, made, replace(loose, gates=gates), notify),
            )
            for side, names, found in zip(sides[1:], pairs, outputs[1:], strict=True)
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


def _run_side(
    side: Side,
    lead: Runnable | None,
    made: tuple[Feed, ...],
    request: DiffRequest,
    spool: Spool,
    notify: Notify,
) -> _Outputs:
    if isinstance(side, Saved):
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
        del found  # so that the next run need not have room beside this one
    return _Outputs(RunInfo(side.path, side.label, runner.description, seconds), tuple(runs))


def _save(
    request: DiffRequest, made: tuple[Feed, ...], sides: tuple[Side, ...], outputs: list[_Outputs]
) -> None:
    if request.save_inputs:
        write_saved(request.save_inputs, [feed.arrays for feed in made])
    if request.save_outputs:
        request.save_outputs.mkdir(exist_ok=True)
        for side, found in zip(sides, outputs, strict=True):
            if isinstance(side, Runnable):
                write_saved(request.save_outputs / f"{side.stem}.npz", found.runs)


def _with_default(gates: Gates, sides: tuple[Side, ...]) -> Gates:
    """Where no gate is given, what the precision of the graphs explains; fp32's for saved ones."""
    types: set[int] = set()
    for side in sides:
        if isinstance(side, Runnable):
            types |= {output.elem_type for output in side.interface.outputs}
            types |= tolerances.working_types(side.skeleton)
    return replace(gates, default=gates.default or tolerances.for_types(*types))


def _compare(
    right: Side,
    names: Mapping[str, str],
    reference: _Outputs,
    candidate: _Outputs,
    request: DiffRequest,
    notify: Notify,
) -> CandidateResult:
    notify(f"comparing {right.label}")
    verdicts = []
    for feed, (one, two) in enumerate(zip(reference.runs, candidate.runs, strict=True)):
        for name, other in names.items():
            arrays = alike(one[name], two[other])
            left_spec, right_spec = spec_of(name, arrays[0]), spec_of(other, arrays[1])
            same = (left_spec.dims, arrays[0].dtype) == (right_spec.dims, arrays[1].dtype)
            if not same and not request.layers:  # which may say where it began
                where = feed if len(reference.runs) > 1 else None
                raise not_alike(
                    reference.info.path, left_spec, candidate.info.path, right_spec, where
                )
            verdicts.append(_verdict(feed, (name, other), arrays, request))
    if not any(verdict.detail.difference.shape.count(0) == 0 for verdict in verdicts):
        raise UserError(
            f"every output of {reference.info.path} is empty, so there is nothing to compare."
        )
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
    return CandidateResult(candidate.info, tuple(verdicts), tuple(notes), plan=_plan(right))


def _verdict(
    feed: int, names: tuple[str, str], arrays: tuple[AnyArray, AnyArray], request: DiffRequest
) -> OutputVerdict:
    one, two = arrays
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
