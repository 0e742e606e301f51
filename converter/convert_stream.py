"""Convert a decoder in stream form: both graphs of a manifest, and one data file for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from converter import manifest, model_file, stream_files
from converter.choice import Choice, Chooser, cheapest
from converter.conv3d import Conv3D
from converter.convert import Notify, Options
from converter.errors import UserError
from converter.manifest import FIRST, NEXT, Manifest
from converter.plan import Plan, matches
from converter.race import run as convert_graph
from converter.result import ConvertResult
from converter.rewrites import BY_NAME
from converter.stream_files import PendingStream

VALIDATION_SIZE = 8
"""H and W of the latent in the validation of graphs that take any."""


@dataclass(frozen=True)
class StreamResult:
    """The outcome of a conversion of a manifest.

    Attributes:
        graphs: `first` and `next`; each one's `file_bytes` counts the weights it needs.
        written: Whether all files were written: none is if one graph's validation fails.
        data_bytes: Size of the data file that the graphs share; None where nothing was written.
    """

    input: Path
    output: Path | None
    written: bool
    graphs: Mapping[str, ConvertResult]
    data_bytes: int | None

    @property
    def equal(self) -> bool:
        """Whether no validation says otherwise."""
        return all(result.equal for result in self.graphs.values())

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "input": str(self.input),
            "output": None if self.output is None else str(self.output),
            "written": self.written,
            "data_bytes": self.data_bytes,
            "graphs": {role: result.to_json() for role, result in self.graphs.items()},
        }


def run(source: Path, output: Path | None, options: Options, notify: Notify) -> StreamResult:
    """Convert both graphs of the manifest `source` into the manifest `output`.

    `first` takes the strategies of `next` wherever it can, and the same tiles, so that the weights,
    which each lays out in its own way, are the same and are written once.

    Raises:
        UserError: bad input or usage; nothing was written.
    """
    if output is None or options.dry_run:
        read = manifest.read(source)
        results = _convert(read, dict.fromkeys((FIRST, NEXT)), options, notify)
        return StreamResult(source, output, False, results, None)
    stream_files.refuse_to_replace(output, options.overwrite)
    read = manifest.read(source)
    with stream_files.pending_stream(output) as pending:
        targets = {role: pending.folder / f"converted.{role}.onnx" for role in (FIRST, NEXT)}
        results = _convert(read, targets, replace(options, external_data="always"), notify)
        written = all(result.written for result in results.values())
        size = None
        if written:
            notify("gather")
            size = _gather(pending, read, targets)
            pending.commit()
    named = {
        role: replace(result, output=output.parent / pending.names[role], written=written)
        for role, result in results.items()
    }
    return StreamResult(source, output, written, named, size)


def _gather(pending: PendingStream, read: Manifest, targets: Mapping[str, Path]) -> int:
    """Write the converted graphs with one data file; returns its size."""
    graphs = {role: model_file.load(path) for role, path in targets.items()}
    return pending.write(graphs, read.spec).path(manifest.DATA).stat().st_size


def _convert(
    read: Manifest, targets: Mapping[str, Path | None], options: Options, notify: Notify
) -> dict[str, ConvertResult]:
    options = replace(options, overwrite=False)
    pins: Mapping[str, Mapping[str, str]] = {FIRST: options.pins, NEXT: options.pins}
    if options.pins:
        pins = _pins(read, options, notify)
    results: dict[str, ConvertResult] = {}
    for role in (NEXT, FIRST):
        own = replace(options, pins=pins[role], shapes=_shapes(read, role, options))
        if role == FIRST:
            alike = results[NEXT].plan
            own = replace(
                own, choose=_following(alike, own), tiles_like=alike, memory_growth=math.inf
            )
        results[role] = convert_graph(read.path(role), targets[role], own, _prefixed(notify, role))
    return {role: results[role] for role in (FIRST, NEXT)}


def _prefixed(notify: Notify, role: str) -> Callable[[str], None]:
    return lambda phase: notify(f"{role}: {phase}")


def _pins(read: Manifest, options: Options, notify: Notify) -> dict[str, dict[str, str]]:
    """The pins that match in each graph; raises `UserError` for one that matches in neither."""
    free = replace(options, pins={}, dry_run=True, choose=None)
    names = {
        role: [e.node for e in convert_graph(read.path(role), None, free, notify).plan.entries]
        for role in (FIRST, NEXT)
    }
    pins = {
        role: {
            pattern: strategy
            for pattern, strategy in options.pins.items()
            if any(matches(name, pattern) for name in names[role])
        }
        for role in (FIRST, NEXT)
    }
    for pattern in options.pins:
        if not any(pattern in chosen for chosen in pins.values()):
            raise UserError(f"the pin {pattern!r} matches no Conv3D of {read.path(NEXT)}.")
    return pins


def _following(plan: Plan, options: Options) -> Chooser:
    """A chooser that takes what another plan took for the node of the same name, if it can."""
    taken = {entry.node: entry.strategy for entry in plan.entries}
    otherwise = options.choose or partial(
        cheapest, target=options.target, accuracy=options.accuracy
    )

    def choose(conv: Conv3D) -> Choice:
        strategy = BY_NAME.get(taken.get(conv.name, ""))
        if strategy is None or strategy.check(conv) is not None:
            return otherwise(conv)
        return Choice(strategy.name, "as in next, to share the weights")

    return choose


def _shapes(read: Manifest, role: str, options: Options) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs in the validation: a cache's follows from the latent's."""
    spec = read.spec
    wanted = options.shapes.get(spec.latent_name, ())
    unknown = set(options.shapes) - {spec.latent_name}
    if unknown or (wanted and len(wanted) != 5):
        raise UserError(
            f"--shape for a manifest is that of its latent, {spec.latent_name}=NxCxTxHxW; "
            "the caches follow from it."
        )
    height, width = (
        asked or fixed or VALIDATION_SIZE
        for asked, fixed in zip(wanted[3:] or (0, 0), spec.latent[3:], strict=True)
    )
    shapes = spec.inputs(height, width)
    if wanted:
        shapes[spec.latent_name] = wanted
    if role == NEXT:
        return shapes
    n, c, frames, height, width = shapes[spec.latent_name]
    return {spec.latent_name: (n, c, frames + spec.lead, height, width)}
