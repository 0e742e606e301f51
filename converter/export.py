"""Export a PyTorch video decoder as one ONNX graph, and prove it equal to upstream's `decode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter import export_check, model_file, output_files
from converter.export_check import Check
from converter.export_common import (
    CHECK_PROVIDER,
    DEFAULT_SIZE,
    Clock,
    add_notes,
    count_conv3d,
    fitting,
    memory_errors,
    need_extra,
    open_decoder,
    refuse_opset,
)
from converter.export_graph import INPUT, OUTPUT, trace
from converter.export_storage import store
from converter.model_file import Model
from converter.origin import AS_UPSTREAM, GraphOptions
from converter.providers import choose, make_session
from converter.result import GraphSummary, summarize
from converter.session import SessionSettings

if TYPE_CHECKING:
    from models.base import Decoder, Shape

DYNAMIC_AXES = {2: "T", 3: "H", 4: "W"}
DEFAULT_FRAMES = 3
TRACED_SIZES = (3, 6, 10)
"""T, H, W that a dynamic graph is traced with; it is checked at others."""

UNSEEN_SIZES = ((1, 3, 5), (2, 5, 4))
"""T, H, W at which a dynamic graph is checked besides the latent's own."""


@dataclass(frozen=True)
class ExportResult:
    """The outcome of `export`.

    Attributes:
        written: Whether `output` was written; False when the check failed.
        seed: Seed of the weights, None where they were read.
        latent: Shape of the graph's input; what `dynamic` names may have any size >= 1.
        video: Shape of its output at that latent.
        max_abs_error: Largest absolute difference from upstream's `decode` in fp32, over
            `checked`; None where nothing was checked.
        checked: The latent shapes at which both were run.
        seconds: Time spent, by phase.
        rounding: Upstream's own rounding error, where `tolerance` was derived from it.
    """

    source: str
    output: Path
    written: bool
    family: str
    seed: int | None
    latent: tuple[int, ...]
    video: tuple[int, ...]
    dynamic: tuple[str, ...]
    graph: GraphSummary
    max_abs_error: float | None
    tolerance: float
    checked: tuple[tuple[int, ...], ...]
    seconds: Mapping[str, float]
    rounding: float | None = None

    @property
    def equal(self) -> bool:
        """Whether no check says otherwise. An error that is not a number is no equality."""
        return self.max_abs_error is None or self.max_abs_error <= self.tolerance

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.max_abs_error is None:
            return "not checked against upstream"
        verdict = export_check.verdict(self.max_abs_error, self.tolerance, self.rounding)
        places = (
            "1 latent shape" if len(self.checked) == 1 else f"{len(self.checked)} latent shapes"
        )
        return f"{verdict}, at {places}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        error = self.max_abs_error
        return {
            "source": self.source,
            "output": str(self.output),
            "written": self.written,
            "family": self.family,
            "seed": self.seed,
            "latent": list(self.latent),
            "video": list(self.video),
            "dynamic": list(self.dynamic),
            "graph": self.graph.to_json(),
            "max_abs_error": None if error is None or not np.isfinite(error) else error,
            "tolerance": self.tolerance,
            "rounding": self.rounding,
            "checked": [list(shape) for shape in self.checked],
            "equal": self.equal,
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        where = str(self.output) if self.written else "not written"
        return f"{self.source} -> {where}: {self.graph.node_count} nodes; {self.sentence()}"


def export(
    source: str,
    out: str | Path,
    *,
    seed: int | None = None,
    latent: tuple[int, ...] | None = None,
    dynamic: bool = False,
    options: GraphOptions = AS_UPSTREAM,
    opset: int = 18,
    check: bool = True,
    tolerance: float | None = None,
    provider: str = CHECK_PROVIDER,
    settings: SessionSettings | None = None,
    overwrite: bool = False,
    notify: Callable[[str], None] = lambda phase: None,
) -> ExportResult:
    """Export a decoder to `out`, as a graph latent (N, C, T, H, W) -> video (N, 3, T', H', W').

    Args:
        source: A preset such as `wan2.1`, or a diffusers VAE folder, or the pipeline around it.
        out: The ONNX file; weights over 1.9 GB go into a file beside it.
        seed: Makes random weights, for a preset or a folder without weights.
        latent: Shape of the input; by default 1xCx3x16x16.
        dynamic: T, H and W may have any size; N stays.
        options: What else the graph does, and how its weights are stored.
        opset: 18 to 25.
        check: Run the graph by onnxruntime and upstream's `decode` by PyTorch on the same latent,
            and with `dynamic` also at sizes other than those it was traced with. If they differ
            by more than `tolerance`, nothing is written.
        tolerance: Largest absolute error of the check; by default 1e-5, or four times upstream's
            own rounding error where that is more (`converter.export_check`).
        provider: Execution provider of the check; others than `cpu` round more coarsely.
        settings: Of the check's sessions.
        overwrite: Replace `out` if it exists.
        notify: Called with the name of each phase as it begins.

    Raises:
        UserError: bad input or usage; nothing was written.
    """
    out = Path(out)
    output_files.refuse_to_replace(out, overwrite)
    refuse_opset(opset)
    need_extra()
    if check:
        choose(provider)
    clock = Clock(notify)
    # Opened before the work, so that a folder that cannot be written is known at once.
    with output_files.pending_output(out) as pending:
        with clock.phase("open"):
            opened = open_decoder(source, seed).adapted(options)
        if latent is None:
            channels = opened.decoder.geometry.channels
            latent = (1, channels, DEFAULT_FRAMES, DEFAULT_SIZE, DEFAULT_SIZE)
        shape, video = fitting(opened.decoder, latent)
        with clock.phase("trace"), memory_errors():
            model = _trace(opened.decoder, shape, dynamic, opset)
        add_notes(model, source, opened)
        conv3d = count_conv3d(model)
        if options.weights != "float32":
            store(model, options.weights)
        with clock.phase("write"):
            pending.write(model, external=model_file.wants_external(model, "auto"))
            file_bytes = pending.file_bytes()
        checked: Check | None = None
        if check:
            shapes = [shape, *(_resized(shape, sizes) for sizes in UNSEEN_SIZES if dynamic)]
            with clock.phase("check"), memory_errors():
                session = make_session(pending.model_path, provider, settings)
                checked = export_check.check(
                    opened, lambda z: session.run({INPUT: z})[OUTPUT], shapes, tolerance
                )
        written = checked is None or checked.max_abs_error <= checked.tolerance
        if written:
            pending.commit()
    return ExportResult(
        source=source,
        output=out,
        written=written,
        family=opened.family.name,
        seed=opened.seed,
        latent=shape,
        video=(video[0], *video[2:], video[1]) if options.uint8 else video,
        dynamic=tuple(DYNAMIC_AXES.values()) if dynamic else (),
        graph=summarize(model.proto, conv3d, file_bytes),
        max_abs_error=None if checked is None else checked.max_abs_error,
        tolerance=export_check.TOLERANCE if checked is None else checked.tolerance,
        checked=() if checked is None else checked.shapes,
        rounding=None if checked is None else checked.rounding,
        seconds=clock.seconds,
    )


def _resized(shape: Shape, sizes: tuple[int, int, int]) -> Shape:
    return (*shape[:2], *sizes)


def _trace(decoder: Decoder, shape: Shape, dynamic: bool, opset: int) -> Model:
    traced = _resized(shape, TRACED_SIZES) if dynamic else shape
    return trace(decoder.clip(dynamic=dynamic), traced, DYNAMIC_AXES if dynamic else {}, opset)
