"""Export a PyTorch video decoder in stream form: two graphs, their data file, and a manifest.

`first` takes the first chunk of latent frames, `next` every other, with a cache for each causal
convolution. Together they equal upstream's `decode`, which is checked before they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter import export_check, runtime, stream_files
from converter.errors import UserError
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
from converter.export_graph import INPUT, OUTPUT, Signature, trace_call
from converter.export_storage import store
from converter.manifest import FIRST, NEXT, CacheEntry, StreamSpec
from converter.model_file import Model
from converter.origin import AS_UPSTREAM, GraphOptions
from converter.providers import choose
from converter.result import GraphSummary, summarize
from converter.session import SessionSettings

if TYPE_CHECKING:
    from models.base import Decoder, Shape, Stream
    from models.source import Opened

TRACED_SIZE = (6, 10)
"""H, W that dynamic graphs are traced with; they are checked at others, too."""

UNSEEN_SIZE = (3, 5)


@dataclass(frozen=True)
class StreamExportResult:
    """The outcome of `export_stream`.

    Attributes:
        written: Whether `output` and its files were written; False when the check failed.
        seed: Seed of the weights, None where they were read.
        latent: Shape of the latent input of both graphs; with `dynamic`, any H and W will do.
        graphs: `first` and `next` in numbers; `file_bytes` is that of the graph without weights.
        data_bytes: Size of the data file that they share.
        max_abs_error: Largest absolute difference from upstream's `decode` in fp32, over
            `checked`; None where nothing was checked.
        checked: Shapes of the whole latents at which both were run.
        seconds: Time spent, by phase.
        rounding: Upstream's own rounding error, where `tolerance` was derived from it.
    """

    source: str
    output: Path
    written: bool
    family: str
    seed: int | None
    chunk: int
    latent: tuple[int, ...]
    dynamic: bool
    graphs: Mapping[str, GraphSummary]
    data_bytes: int
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
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.checked)
        return f"{verdict}, at {shapes}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        error = self.max_abs_error
        return {
            "source": self.source,
            "output": str(self.output),
            "written": self.written,
            "family": self.family,
            "seed": self.seed,
            "chunk": self.chunk,
            "latent": list(self.latent),
            "dynamic": self.dynamic,
            "graphs": {role: graph.to_json() for role, graph in self.graphs.items()},
            "data_bytes": self.data_bytes,
            "max_abs_error": None if error is None or not np.isfinite(error) else error,
            "tolerance": self.tolerance,
            "rounding": self.rounding,
            "checked": [list(shape) for shape in self.checked],
            "equal": self.equal,
            "seconds": dict(self.seconds),
        }


def export_stream(
    source: str,
    out: str | Path,
    *,
    chunk: int = 1,
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
) -> StreamExportResult:
    """Export a decoder to the manifest `out` and OUT.first.onnx, OUT.next.onnx, OUT.data.

    Args:
        source: A preset such as `wan2.1`, or a diffusers VAE folder, or the pipeline around it.
        out: The manifest, a .json file; the others lie beside it, with its stem.
        chunk: Latent frames that a graph takes in one run.
        seed: Makes random weights, for a preset or a folder without weights.
        latent: Shape of the latent input; its T must be `chunk`. By default 1xCxCHUNKx16x16.
        dynamic: H and W may have any size; N and T stay.
        options: What else the graph does, and how its weights are stored.
        opset: 18 to 25.
        check: Decode a clip of two and a half chunks by the graphs, in onnxruntime, and by
            upstream's `decode`, in PyTorch. If they differ by more than `tolerance`, nothing is
            written.
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
    stream_files.refuse_to_replace(out, overwrite)
    refuse_opset(opset)
    if chunk < 1:
        raise UserError(f"a chunk of {chunk} latent frames cannot be: take 1 or more.")
    need_extra()
    if check:
        choose(provider)
    clock = Clock(notify)
    with stream_files.pending_stream(out) as pending:
        with clock.phase("open"):
            opened = open_decoder(source, seed).adapted(options)
        decoder = opened.decoder
        shape = _shape(decoder, latent, chunk)
        with clock.phase("trace"), memory_errors():
            stream = decoder.stream(chunk)
            if stream is None:
                raise UserError(f"{opened.family.name} has no stream form; leave out --stream.")
            graphs = _trace(stream, shape, dynamic, opset)
        for model in graphs.values():
            add_notes(model, source, opened)
        conv3d = {role: count_conv3d(model) for role, model in graphs.items()}
        if options.weights != "float32":
            for model in graphs.values():
                store(model, options.weights)
        with clock.phase("write"):
            spec = _spec(opened, stream, shape, dynamic)
            written_manifest = pending.write(graphs, spec)
            sizes = {r: written_manifest.path(r).stat().st_size for r in written_manifest.files}
        checked: Check | None = None
        if check:
            part = (chunk + 1) // 2  # of the last chunk
            frames = stream.lead + 2 * chunk + part + part % stream.multiple
            places = (shape[3:], UNSEEN_SIZE) if dynamic else (shape[3:],)
            shapes = tuple((shape[0], shape[1], frames, h, w) for h, w in places)
            with clock.phase("check"), memory_errors():
                made = runtime.Decoder(pending.manifest_path, provider, settings)
                checked = export_check.check(opened, made.decode, shapes, tolerance)
        written = checked is None or checked.max_abs_error <= checked.tolerance
        if written:
            pending.commit()
    return StreamExportResult(
        source=source,
        output=out,
        written=written,
        family=opened.family.name,
        seed=opened.seed,
        chunk=chunk,
        latent=shape,
        dynamic=dynamic,
        graphs={
            role: summarize(model.proto, conv3d[role], sizes[role])
            for role, model in graphs.items()
        },
        data_bytes=sizes["data"],
        max_abs_error=None if checked is None else checked.max_abs_error,
        tolerance=export_check.TOLERANCE if checked is None else checked.tolerance,
        checked=() if checked is None else checked.shapes,
        rounding=None if checked is None else checked.rounding,
        seconds=clock.seconds,
    )


def _shape(decoder: Decoder, latent: tuple[int, ...] | None, chunk: int) -> Shape:
    if latent is None:
        latent = (1, decoder.geometry.channels, chunk, DEFAULT_SIZE, DEFAULT_SIZE)
    shape, _ = fitting(decoder, latent)
    if shape[2] != chunk:
        raise UserError(
            f"the latent {'x'.join(map(str, shape))} has T = {shape[2]}, but in stream form T is "
            f"the chunk, {chunk}."
        )
    return shape


def _trace(stream: Stream, shape: Shape, dynamic: bool, opset: int) -> dict[str, Model]:
    import torch

    n, c, t, h, w = shape
    if dynamic:
        h, w = TRACED_SIZE
    latent = torch.zeros(n, c, t, h, w)
    longer = torch.zeros(n, c, t + stream.lead, h, w)
    caches = [
        torch.zeros(n, cache.channels, cache.frames, h * cache.scale, w * cache.scale)
        for cache in stream.caches
    ]
    sizes = [torch.export.Dim(axis, min=1) for axis in "HW"]
    scales = [1, *(cache.scale for cache in stream.caches)]
    any_size = [
        {3: k * sizes[0], 4: k * sizes[1]} if k > 1 else {3: sizes[0], 4: sizes[1]} for k in scales
    ]
    outputs = (OUTPUT, *(f"cache_out.{cache.name}" for cache in stream.caches))
    inputs = (INPUT, *(f"cache_in.{cache.name}" for cache in stream.caches))
    first = Signature((longer,), (INPUT,), outputs, (any_size[0],) if dynamic else None)
    following = Signature(
        (latent, caches), inputs, outputs, (any_size[0], any_size[1:]) if dynamic else None
    )
    return {
        FIRST: trace_call(stream.first, first, opset),
        NEXT: trace_call(stream.next, following, opset),
    }


def _spec(opened: Opened, stream: Stream, shape: Shape, dynamic: bool) -> StreamSpec:
    geometry = opened.decoder.geometry
    return StreamSpec(
        family=opened.family.name,
        chunk=stream.chunk,
        latent=(*shape[:3], None, None) if dynamic else shape,
        video_channels=geometry.video_channels,
        time=geometry.time,
        space=geometry.space,
        caches=tuple(
            CacheEntry(
                input=f"cache_in.{cache.name}",
                output=f"cache_out.{cache.name}",
                channels=cache.channels,
                frames=cache.frames,
                scale=cache.scale,
            )
            for cache in stream.caches
        ),
        latent_name=INPUT,
        video_name=OUTPUT,
        origin=opened.origin,
        lead=stream.lead,
        multiple=stream.multiple,
    )
