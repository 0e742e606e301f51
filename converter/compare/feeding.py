"""The feeds of a comparison: read from files, or seeded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from converter.compare import feeds
from converter.compare.diff_result import FeedInfo
from converter.compare.feed_files import read_arrays
from converter.compare.feeds import Array, Shapes
from converter.compare.interface import TensorSpec
from converter.compare.room import refuse_beyond_memory
from converter.compare.running import Seeded, run_first_legal, show_shapes
from converter.compare.sides import Runnable, check_feed, dtype_of
from converter.errors import UserError
from converter.session import SessionSettings

Notify = Callable[[str], None]


@dataclass(frozen=True)
class FeedPlan:
    """Files to read; without any, `count` seeded feeds are made from `seed` on.

    `shapes`: input name -> shape of seeded feeds, where dimensions are dynamic.
    """

    files: tuple[Path, ...] = ()
    count: int = 1
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Feed:
    """Input name of the leading graph -> array, and where it came from."""

    source: str
    arrays: Mapping[str, Array]

    @property
    def info(self) -> FeedInfo:
        """What a report says of it."""
        return FeedInfo(self.source, {name: array.shape for name, array in self.arrays.items()})


def make_feeds(
    lead: Runnable, plan: FeedPlan, provider: str, settings: SessionSettings, notify: Notify
) -> tuple[Feed, ...]:
    """The feeds of a file, or seeded ones; raises `UserError` where a file does not fit."""
    inputs = lead.interface.inputs
    if plan.files:
        read = [
            Feed(_label(path, number, len(arrays)), _fit(inputs, one, path))
            for path in plan.files
            for arrays in [read_arrays(path)]
            for number, one in enumerate(arrays)
        ]
        return tuple(read)
    shapes = _legal_shapes(lead, plan, provider, settings, notify)
    need = sum(math.prod(shapes[spec.name]) * dtype_of(spec).itemsize for spec in inputs)
    refuse_beyond_memory(f"{counted(plan.count)} of {show_shapes(shapes)}", plan.count * need)
    seeds = range(plan.seed, plan.seed + plan.count)
    return tuple(Feed(f"seed {seed}", feeds.make_feed(inputs, shapes, seed)) for seed in seeds)


def counted(feeds: int) -> str:
    """How many feeds, in words."""
    return f"{feeds} feed" if feeds == 1 else f"{feeds} feeds"


def _label(path: Path, number: int, count: int) -> str:
    return f"{path.name} feed {number}" if count > 1 else path.name


def _fit(
    inputs: tuple[TensorSpec, ...], arrays: Mapping[str, Array], path: Path
) -> dict[str, Array]:
    """The arrays of a file under the inputs' names."""
    if len(inputs) == len(arrays) == 1:  # a latent is the input whatever it is called
        (array,) = arrays.values()
        return {inputs[0].name: check_feed(inputs[0], array, str(path))}
    lacking = [spec.name for spec in inputs if spec.name not in arrays]
    if lacking:
        raise UserError(
            f"{path} has no array for the input {lacking[0]}; it holds "
            f"{', '.join(name or 'a nameless one' for name in arrays)}."
        )
    return {
        spec.name: check_feed(spec, arrays[spec.name], f"{spec.name} of {path}") for spec in inputs
    }


def _legal_shapes(
    lead: Runnable, plan: FeedPlan, provider: str, settings: SessionSettings, notify: Notify
) -> Shapes:
    ladder = tuple(feeds.shape_ladder(lead.interface.inputs, lead.skeleton, plan.shapes))
    if len(ladder) == 1:
        return ladder[0]
    notify(f"finding sizes that {lead.label} runs on")
    runner = lead.runner(provider, settings)
    seeded = Seeded(lead.path, lead.interface.inputs, ladder, plan.seed)
    return run_first_legal(runner, seeded).shapes


def cast_feed(feed: Mapping[str, Array], inputs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """The leading graph's feed under another graph's names and in its types."""
    return {
        spec.name: feed[name].astype(dtype_of(spec), copy=False) for name, spec in inputs.items()
    }
