"""Run a graph on a seeded feed, trying sizes for its open dimensions until it accepts one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from converter.compare import feeds
from converter.compare.feeds import Array, Shapes
from converter.compare.interface import TensorSpec, show_shape
from converter.compare.reference_evaluator import ReferenceRunner
from converter.errors import UserError
from converter.providers import make_session
from converter.session import NotSupportedError, RunError, SessionSettings


class Runner(Protocol):
    """Runs one graph: an onnxruntime session, or the ONNX reference evaluator."""

    @property
    def description(self) -> str:
        """What runs the graph, with its version."""

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""


@dataclass(frozen=True)
class Seeded:
    """What to feed: the graph's inputs, their possible shapes in order of trial, and the seed."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    ladder: tuple[Shapes, ...]
    seed: int


@dataclass(frozen=True)
class Ran:
    """A feed, what a graph made of it, and the seconds of the run alone."""

    shapes: Shapes
    feed: dict[str, Array]
    outputs: dict[str, Array]
    seconds: float


def make_runner(path: Path, provider: str, settings: SessionSettings | None = None) -> Runner:
    """Onnxruntime, or ONNX's reference evaluator where that has no kernel for a node."""
    try:
        return make_session(path, provider, settings)
    except NotSupportedError:
        return ReferenceRunner(path)


def run_first_legal(runner: Runner, seeded: Seeded) -> Ran:
    """The first shapes of the ladder on which the graph runs and yields something.

    Raises `UserError` where it runs on none.
    """
    empty = None
    failure = ""
    for shapes in seeded.ladder:
        feed = feeds.make_feed(seeded.inputs, shapes, seeded.seed)
        start = time.perf_counter()
        try:
            outputs = runner.run(feed)
        except RunError as error:
            failure = str(error)
            continue
        result = Ran(shapes, feed, outputs, time.perf_counter() - start)
        if all(array.size for array in outputs.values()):
            return result
        empty = empty or result
    if empty:
        return empty
    if len(seeded.ladder) == 1 and failure:
        raise RunError(failure)
    examples = " ".join(
        f"--shape {feeds.example_shape(spec)}"
        for spec in seeded.inputs
        if spec.dims is None or not all(isinstance(dim, int) for dim in spec.dims)
    )
    raise UserError(
        f"no size tried for the dynamic dimensions of {seeded.path} runs; give one that "
        f"does, such as {examples} (the last try, {show_shapes(seeded.ladder[-1])}: {failure})"
    )


def show_shapes(shapes: Shapes) -> str:
    """Every input with its shape, as `--shape` takes them."""
    return ", ".join(f"{name}={show_shape(shape)}" for name, shape in shapes.items())
