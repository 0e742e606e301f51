"""Export a PyTorch video decoder, or encoder, as one ONNX graph, and prove it equal to upstream's
`decode`, or `encode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter import export_check, model_file, output_files
from converter.errors import UserError
from converter.export_check import Check
from converter.export_common import (
    CHECK_PROVIDER,
    DEFAULT_SIZE,
    Clock,
    add_notes,
    count_conv3d,
    fitting,
    fitting_video,
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
    from models.base import Shape
    from models.source import Opened

DYNAMIC = ("T", "H", "W")
DEFAULT_FRAMES = 3
TRACED_SIZES = (3, 6, 10)
"""T, H, W of the latent that a dynamic graph is traced with; it is checked at others."""

UNSEEN_SIZES = ((1, 3, 5), (2, 5, 4))
"""T, H, W of the latent at which a dynamic decoder is checked besides the latent's own."""

UNSEEN_SIZES_OF_ENCODERS = ((1, 3, 5), (5, 5, 4))
"""The same of an encoder: some encode no videos of an even T of the latent."""


@dataclass(frozen=True)
class ExportResult:
    """The outcome of `export`.

    Attributes:
        written: Whether `output` was written; False when the check failed.
        seed: Seed of the weights, None where they were read.
        latent: Shape of a decoder's input; what `dynamic` names may have any size >= 1.
        video: Shape of its output at that latent; or of an encoder's input, its output being the
            latent.
        max_abs_error: Largest absolute difference from upstream's `decode`, or `encode`, in fp32,
            over `checked`; None where nothing was checked.
        checked: The shapes of inputs at which both were run.
        seconds: Time spent, by phase.
        rounding: Upstream's own rounding error, where `tolerance` was derived from it.
        encoder: Whether the graph encodes.
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
    encoder: bool = False

    @property
    def equal(self) -> bool:
        """Whether no check says otherwise. An error that is not a number is no equality."""
        return self.max_abs_error is None or self.max_abs_error <= self.tolerance

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.max_abs_error is None:
            return "not checked against upstream"
        kind, function = ("video", "encode") if self.encoder else ("latent", "decode")
        verdict = export_check.verdict(self.max_abs_error, self.tolerance, self.rounding, function)
        count = len(self.checked)
        return f"{verdict}, at {count} {kind} shape{'s' if count > 1 else ''}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        error = self.max_abs_error
        return {
            "source": self.source,
            "output": str(self.output),
            "written": self.written,
            "family": self.family,
            "encoder": self.encoder,
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
    video: tuple[int, ...] | None = None,
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

    Where `options` say so, the encoder is exported: video -> latent, the mean of its distribution.

    Args:
        source: A preset such as `wan2.1`, or a diffusers VAE folder, or the pipeline around it.
        out: The ONNX file; weights over 1.9 GB go into a file beside it.
        seed: Makes random weights, for a preset or a folder without weights.
        latent: Shape of a decoder's input; by default 1xCx3x16x16.
        video: Shape of an encoder's input; by default what that latent decodes to.
        dynamic: T, H and W may have any size that the coder takes; N stays.
        options: What else the graph does, and how its weights are stored.
        opset: 18 to 25.
        check: Run the graph by onnxruntime and upstream's function by PyTorch on the same input,
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
        shape, made = _shapes(opened, latent, video)
        with clock.phase("trace"), memory_errors():
            model = _trace(opened, shape, dynamic, opset)
        add_notes(model, source, opened)
        conv3d = count_conv3d(model)
        if options.weights != "float32":
            store(model, options.weights)
        with clock.phase("write"):
            pending.write(model, external=model_file.wants_external(model, "auto"))
            file_bytes, data_file = pending.file_bytes(), pending.data_file()
        checked: Check | None = None
        if check:
            unseen = UNSEEN_SIZES_OF_ENCODERS if opened.encoder else UNSEEN_SIZES
            shapes = [shape, *(_resized(opened, shape, sizes) for sizes in unseen if dynamic)]
            given, wanted = _names(opened)
            with clock.phase("check"), memory_errors():
                session = make_session(pending.model_path, provider, settings)
                checked = export_check.check(
                    opened, lambda x: session.run({given: x})[wanted], shapes, tolerance
                )
        written = checked is None or checked.max_abs_error <= checked.tolerance
        if written:
            pending.commit()
    latent, video = (made, shape) if opened.encoder else (shape, made)
    return ExportResult(
        source=source,
        output=out,
        written=written,
        family=opened.family.name,
        seed=opened.seed,
        latent=latent,
        video=(video[0], *video[2:], video[1]) if options.uint8 else video,
        dynamic=DYNAMIC if dynamic else (),
        graph=summarize(model.proto, conv3d, file_bytes, data_file),
        max_abs_error=None if checked is None else checked.max_abs_error,
        tolerance=export_check.TOLERANCE if checked is None else checked.tolerance,
        checked=() if checked is None else checked.shapes,
        rounding=None if checked is None else checked.rounding,
        seconds=clock.seconds,
        encoder=options.encoder,
    )


def _shapes(
    opened: Opened, latent: tuple[int, ...] | None, video: tuple[int, ...] | None
) -> tuple[Shape, Shape]:
    """Of the input and of the output; raises `UserError` where the input does not fit."""
    encoder, geometry = opened.encoder, opened.decoder.geometry
    if latent if encoder else video:
        given, other = ("latent", "video") if encoder else ("video", "latent")
        raise UserError(f"the graph takes a {other}: give its shape, not that of the {given}.")
    default = (1, geometry.channels, DEFAULT_FRAMES, DEFAULT_SIZE, DEFAULT_SIZE)
    if encoder is None:
        return fitting(opened.decoder, latent or default)
    return fitting_video(encoder, video or geometry.video_shape(default))


def _resized(opened: Opened, shape: Shape, sizes: tuple[int, int, int]) -> Shape:
    """The input's shape where the latent's T, H and W are `sizes`."""
    geometry = opened.decoder.geometry
    latent = (shape[0], geometry.channels, *sizes)
    return geometry.video_shape(latent) if opened.encoder else latent


def _names(opened: Opened) -> tuple[str, str]:
    """Of the graph's input and output."""
    return (OUTPUT, INPUT) if opened.encoder else (INPUT, OUTPUT)


def _trace(opened: Opened, shape: Shape, dynamic: bool, opset: int) -> Model:
    import torch

    coder = opened.coder
    traced = _resized(opened, shape, TRACED_SIZES) if dynamic else shape
    example = coder.example(traced, torch.Generator().manual_seed(0))
    sizes = coder.sizes() if dynamic else {}
    return trace(coder.clip(dynamic=dynamic), example, sizes, opset, _names(opened))
