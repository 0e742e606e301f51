"""Layer by layer: every Conv3D's output against its successor, to find the first one to blame.

The accumulated error is that of both graphs run from the feed on. The local error is that of the
candidate's part between the Conv3Ds before a layer and the layer, fed with what the reference's
Conv3Ds gave: it shows what this part adds of its own, be there errors before it or not.

Layers are taken in slices, each a run of both graphs as far as its last layer, so that memory
holds the outputs of one slice and of the layers right before it. Of several feeds, one at a time,
each layer keeps the figures of the feed on which it is worst. Tensors that are also outputs
keep a runtime from fusing across them, so the last digits may differ from those of a plain run.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.compare.cut import Workbench
from converter.compare.feeds import Array
from converter.compare.interface import TensorSpec, load_skeleton
from converter.compare.jsonable import jsonable
from converter.compare.layer_holders import Holder, holders
from converter.compare.metrics import difference
from converter.compare.output_difference import OutputDifference
from converter.compare.running import make_runner
from converter.compare.sides import alike, dtype_of
from converter.compare.tolerance import Tolerance
from converter.errors import UserError
from converter.session import PLAIN, SessionSettings

SLICE = 8
"""Layers whose outputs are compared in one run of both graphs."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class LayerDifference:
    """One Conv3D output; a difference is None where it could not be computed, `reason` says why.

    `name` is the reference's tensor, `tensor` and `layout` say what holds it in the candidate,
    `feed` is the number of the feed that the figures are of.
    """

    name: str
    tensor: str
    layout: str
    accumulated: OutputDifference | None
    local: OutputDifference | None
    reason: str = ""
    feed: int = 0

    def why_blamed(self, budget: Tolerance) -> str:
        """What of its own error is beyond the budget; empty if nothing is."""
        found = self.local or self.accumulated
        return found.why_fails(budget) if found else ""

    def badness(self, budget: Tolerance) -> tuple[bool, float]:
        """Larger is worse: whether its own error is beyond the budget, then how large it is."""
        found = self.local or self.accumulated
        known = found is not None and not math.isnan(found.rel_l2)
        return bool(self.why_blamed(budget)), found.rel_l2 if found and known else -math.inf

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        fields: dict[str, Any] = jsonable(self)
        return fields


@dataclass(frozen=True)
class LayerReport:
    """All layers in the reference's order, and what the local error of one may be.

    `feeds` is how many feeds were run.
    """

    budget: Tolerance
    layers: tuple[LayerDifference, ...]
    notes: tuple[str, ...] = ()
    feeds: int = 1

    @property
    def first_blamed(self) -> LayerDifference | None:
        """The first layer beyond the budget."""
        return next((layer for layer in self.layers if layer.why_blamed(self.budget)), None)

    def sentence(self) -> str:
        """Which layer to blame, in one line."""
        blamed = self.first_blamed
        known = sum(bool(layer.local or layer.accumulated) for layer in self.layers)
        if blamed is None:
            over = f" on any of {self.feeds} feeds" if self.feeds > 1 else ""
            return f"no layer of {known} is beyond {self.budget}{over}"
        kind = "local error" if blamed.local else "accumulated error"
        why = blamed.why_blamed(self.budget)
        where = "" if blamed.tensor == blamed.name else f" (now {blamed.tensor}, {blamed.layout})"
        number = self.layers.index(blamed)
        feed = f", feed {blamed.feed}" if self.feeds > 1 else ""
        return f"first layer to blame: {blamed.name}{where}, number {number}{feed}: {kind}, {why}"

    def to_json(self) -> dict[str, Any]:
        """Every figure, and the name of the first layer beyond the budget."""
        blamed = self.first_blamed
        return {
            "budget": self.budget.to_json(),
            "first_blamed": blamed.name if blamed else None,
            "sentence": self.sentence(),
            "feeds": self.feeds,
            "layers": [layer.to_json() for layer in self.layers],
            "notes": list(self.notes),
        }


@dataclass
class _Bench:
    """One graph on its workbench, with its holders by the original name."""

    bench: Workbench
    holders: dict[str, Holder]
    inputs: Mapping[str, TensorSpec]
    provider: str
    settings: SessionSettings
    types: dict[str, np.dtype[Any]] = field(default_factory=dict)

    def run(self, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the named layers as (N, C, T, H, W), computed from `feed` by tensor."""
        tensors = list(dict.fromkeys(self.holders[name].tensor for name in names))
        stops = {name: array.dtype for name, array in feed.items()}
        path = self.bench.part(tensors, stops)
        gc.collect()  # the session before may still be held by a cycle
        found = make_runner(path, self.provider, self.settings).run(self._needed(path, feed))
        for name in names:
            self.types[name] = found[self.holders[name].tensor].dtype
        return {name: self.holders[name].undo(found[self.holders[name].tensor]) for name in names}

    def _needed(self, path: Path, feed: Mapping[str, Array]) -> dict[str, Array]:
        needed = {value.name for value in load_skeleton(path).graph.input}
        return {name: array for name, array in feed.items() if name in needed}


def compare_layers(
    reference: Path,
    candidate: Path,
    feeds: Sequence[Mapping[str, Array]],
    pairs: Mapping[str, TensorSpec],
    *,
    budget: Tolerance,
    provider: str,
    settings: SessionSettings = PLAIN,
    slice_size: int = SLICE,
    notify: Notify = lambda stage: None,
) -> LayerReport:
    """Compare every Conv3D output that both graphs hold, each on the feed where it is worst.

    Feeds are by the reference's input names, `pairs` says what the candidate calls them. Raises
    `UserError` when no layer has a known successor, or the reference does not run.
    """
    with ExitStack() as stack:
        left = _open(stack, reference, provider, settings)
        right = _open(stack, candidate, provider, settings)
        names, notes = _common(left, right, reference, candidate)
        run = _Run(left, right, names, {name: _border(right, name, names) for name in names})
        worst: dict[str, LayerDifference] = {}
        for number, feed in enumerate(feeds):
            named = f"feed {number}, " if len(feeds) > 1 else ""
            right_feed = {
                spec.name: feed[name].astype(dtype_of(spec), copy=False)
                for name, spec in pairs.items()
            }
            for start in range(0, len(names), slice_size):
                part = names[start : start + slice_size]
                notify(f"{named}layers {start + 1} to {start + len(part)} of {len(names)}")
                for layer in run.slice(part, feed, right_feed):
                    before = worst.get(layer.name)
                    if before is None or layer.badness(budget) > before.badness(budget):
                        worst[layer.name] = replace(layer, feed=number)
        return LayerReport(budget, tuple(worst[name] for name in names), notes, len(feeds))


@dataclass(frozen=True)
class _Run:
    """Both graphs, the layers that both hold, and the layers that each is computed from."""

    left: _Bench
    right: _Bench
    names: Sequence[str]
    borders: Mapping[str, tuple[str, ...]]

    def slice(
        self, part: Sequence[str], feed: Mapping[str, Array], right_feed: Mapping[str, Array]
    ) -> Iterator[LayerDifference]:
        """Some layers on one feed."""
        before = [n for name in part for n in self.borders[name]]
        known = self.left.run(list(dict.fromkeys([*before, *part])), feed)
        accumulated, reason = _try(lambda: self.right.run(part, right_feed))
        for name in part:
            local, local_reason = _local(self.right, name, self.borders[name], known, right_feed)
            yield LayerDifference(
                name,
                self.right.holders[name].tensor,
                self.right.holders[name].layout,
                _difference(name, known[name], accumulated.get(name)),
                _difference(name, known[name], local.get(name)),
                "; ".join(dict.fromkeys(r for r in (reason, local_reason) if r)),
            )


def _open(stack: ExitStack, path: Path, provider: str, settings: SessionSettings) -> _Bench:
    model = load_skeleton(path)
    bench = Workbench(path)
    stack.enter_context(bench)
    held = {name: h for name, h in holders(model).items() if bench.has(h.tensor)}
    return _Bench(bench, held, {}, provider, settings)


def _common(
    left: _Bench, right: _Bench, reference: Path, candidate: Path
) -> tuple[list[str], tuple[str, ...]]:
    """The layers that both hold, in the reference's order.

    A converted graph lists all Conv3Ds of the original, so what the reference holds by name too
    counts, be it in a graph that does not know of Conv3Ds.
    """
    for name in right.holders:
        if name not in left.holders and left.bench.has(name):
            left.holders[name] = Holder(name, "NCTHW")
    names = [name for name in left.holders if name in right.holders]
    if not names:
        raise UserError(
            f"no Conv3D output of {reference} is known in {candidate}: --layers needs a graph "
            "that convert-vae made from it, or one with the same names."
        )
    names.sort(key=lambda name: left.bench.order(left.holders[name].tensor))
    lost = [name for name in left.holders if name not in right.holders]
    note = f"not held by the candidate: {', '.join(lost)}"
    return names, (note,) if lost else ()


def _border(right: _Bench, name: str, names: Sequence[str]) -> tuple[str, ...]:
    """The layers that this one is computed from in the candidate, without another between."""
    by_tensor = {right.holders[n].tensor: n for n in names}
    tensor = right.holders[name].tensor
    found = right.bench.frontier(tensor, [t for t in by_tensor if t != tensor])
    return tuple(by_tensor[t] for t in found if t in by_tensor)


def _local(
    right: _Bench,
    name: str,
    border: tuple[str, ...],
    known: Mapping[str, Array],
    right_feed: Mapping[str, Array],
) -> tuple[dict[str, Array], str]:
    """The layer computed by the candidate from what the reference gave."""
    feed = dict(right_feed)
    for before in border:
        holder = right.holders[before]
        array = known[before]
        feed[holder.tensor] = holder.redo(array).astype(
            right.types.get(before, array.dtype), copy=False
        )
    return _try(lambda: right.run([name], feed))


def _try(run: Callable[[], dict[str, Array]]) -> tuple[dict[str, Array], str]:
    """What a run gave, or why it gave nothing: a faulty candidate may not run beyond its fault."""
    try:
        return run(), ""
    except (UserError, ValueError) as error:
        return {}, str(error)


def _difference(name: str, one: Array, two: Array | None) -> OutputDifference | None:
    return None if two is None else difference(name, *alike(one, two))


def log_error(found: OutputDifference | None) -> float:
    """Relative L2 as a power of ten, for charts; nan where it is not known, -inf for equality."""
    if found is None or math.isnan(found.rel_l2):
        return math.nan
    return math.log10(found.rel_l2) if found.rel_l2 > 0 else -math.inf
