"""Export a PyTorch video decoder as one ONNX graph, and prove it equal to upstream's `decode`."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter import model_file, output_files
from converter.errors import UserError
from converter.export_graph import INPUT, OPSETS, OUTPUT, trace
from converter.model_file import Model
from converter.output_files import PendingOutput
from converter.result import GraphSummary, summarize
from converter.session import CPU_ID, Session, onnxruntime
from converter.version import VERSION

if TYPE_CHECKING:
    from models.base import Decoder, Shape
    from models.source import Opened

TOLERANCE = 1e-5
"""Largest absolute error against upstream, on a video of [-1, 1]: fp32 rounding of some 40 layers
in another order of summation makes 1e-6 to 1e-5."""

DYNAMIC_AXES = {2: "T", 3: "H", 4: "W"}
DEFAULT_FRAMES, DEFAULT_SIZE = 3, 16
TRACED_SIZES = (3, 6, 10)
"""T, H, W that a dynamic graph is traced with; it is checked at others."""

UNSEEN_SIZES = ((1, 3, 5), (2, 5, 4))
"""T, H, W at which a dynamic graph is checked besides the latent's own."""

CHECK_SEED = 0
METADATA_PREFIX = "export_vae."
NEEDS = ("torch", "diffusers", "onnxscript", "safetensors")


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

    @property
    def equal(self) -> bool:
        """Whether no check says otherwise. An error that is not a number is no equality."""
        return self.max_abs_error is None or self.max_abs_error <= self.tolerance

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.max_abs_error is None:
            return "not checked against upstream"
        verdict = "equal to" if self.equal else "different from"
        sign = "<=" if self.equal else ">"
        figures = f"max abs {self.max_abs_error:.2e} {sign} {self.tolerance:g}"
        places = (
            "1 latent shape" if len(self.checked) == 1 else f"{len(self.checked)} latent shapes"
        )
        return f"{verdict} upstream's decode: {figures}, at {places}"

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
            "checked": [list(shape) for shape in self.checked],
            "equal": self.equal,
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        where = str(self.output) if self.written else "not written"
        return f"{self.source} -> {where}: {self.graph.node_count} nodes; {self.sentence()}"


@dataclass
class _Clock:
    notify: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.notify(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def export(
    source: str,
    out: str | Path,
    *,
    seed: int | None = None,
    latent: tuple[int, ...] | None = None,
    dynamic: bool = False,
    opset: int = 18,
    check: bool = True,
    tolerance: float = TOLERANCE,
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
        opset: 18 to 25.
        check: Run the graph by onnxruntime and upstream's `decode` by PyTorch on the same latent,
            and with `dynamic` also at sizes other than those it was traced with. If they differ
            by more than `tolerance`, nothing is written.
        tolerance: Largest absolute error of the check.
        overwrite: Replace `out` if it exists.
        notify: Called with the name of each phase as it begins.

    Raises:
        UserError: bad input or usage; nothing was written.
    """
    out = Path(out)
    output_files.refuse_to_replace(out, overwrite)
    if opset not in OPSETS:
        raise UserError(f"opset {opset} cannot be exported: take {OPSETS[0]} to {OPSETS[-1]}.")
    _need_extra()
    if check:
        onnxruntime()
    clock = _Clock(notify)
    # Opened before the work, so that a folder that cannot be written is known at once.
    with output_files.pending_output(out) as pending:
        with clock.phase("open"):
            opened = _open(source, seed)
        shape, video = _shapes(opened.decoder, latent)
        with clock.phase("trace"), _memory_errors():
            model = _trace(opened.decoder, shape, dynamic, opset)
        _describe(model, source, opened)
        with clock.phase("write"):
            pending.write(model, external=model_file.wants_external(model, "auto"))
            file_bytes = pending.file_bytes()
        checked: tuple[Shape, ...] = ()
        error = None
        if check:
            checked = (shape, *(_resized(shape, sizes) for sizes in UNSEEN_SIZES if dynamic))
            with clock.phase("check"), _memory_errors():
                error = _max_abs_error(opened.decoder, pending, checked)
        written = error is None or error <= tolerance
        if written:
            pending.commit()
    return ExportResult(
        source=source,
        output=out,
        written=written,
        family=opened.family.name,
        seed=opened.seed,
        latent=shape,
        video=video,
        dynamic=tuple(DYNAMIC_AXES.values()) if dynamic else (),
        graph=summarize(model.proto, _conv3d(model), file_bytes),
        max_abs_error=error,
        tolerance=tolerance,
        checked=checked,
        seconds=clock.seconds,
    )


def _need_extra() -> None:
    for module in NEEDS:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"{module} cannot be imported ({error}); exporting needs an extra: "
                "pip install 'convert-vae[export]'."
            ) from error


def _open(source: str, seed: int | None) -> Opened:
    from models.source import open_source

    with _memory_errors():
        return open_source(source, seed)


def _shapes(decoder: Decoder, latent: tuple[int, ...] | None) -> tuple[Shape, Shape]:
    """The shapes of the graph's input and output."""
    geometry = decoder.geometry
    if latent is None:
        latent = (1, geometry.channels, DEFAULT_FRAMES, DEFAULT_SIZE, DEFAULT_SIZE)
    text = "x".join(map(str, latent))
    if len(latent) != 5:
        raise UserError(f"the latent {text} has {len(latent)} sizes; give five, NxCxTxHxW.")
    n, c, t, h, w = latent
    try:
        return (n, c, t, h, w), geometry.video_shape((n, c, t, h, w))
    except ValueError as error:
        raise UserError(f"the latent {text} (NxCxTxHxW) does not fit: {error}.") from error


def _resized(shape: Shape, sizes: tuple[int, int, int]) -> Shape:
    return (*shape[:2], *sizes)


def _trace(decoder: Decoder, shape: Shape, dynamic: bool, opset: int) -> Model:
    traced = _resized(shape, TRACED_SIZES) if dynamic else shape
    return trace(decoder.clip(dynamic=dynamic), traced, DYNAMIC_AXES if dynamic else {}, opset)


def _describe(model: Model, source: str, opened: Opened) -> None:
    """Say in the file where it comes from. Of a folder only the name: its path is private."""
    geometry = opened.decoder.geometry
    notes = {
        "version": VERSION,
        "source": Path(source).name,
        "family": opened.family.name,
        "weights": "read" if opened.seed is None else f"random, seed {opened.seed}",
        "scale": f"T' = (T - 1) * {geometry.time} + 1, H' = H * {geometry.space}, "
        f"W' = W * {geometry.space}",
    }
    for key, value in notes.items():
        entry = model.proto.metadata_props.add()
        entry.key, entry.value = METADATA_PREFIX + key, value


def _conv3d(model: Model) -> int:
    ranks = {tensor.name: len(tensor.dims) for tensor in model.proto.graph.initializer}
    convs = (node for node in model.proto.graph.node if node.op_type == "Conv")
    return sum(ranks.get(node.input[1]) == 5 for node in convs)


def _max_abs_error(decoder: Decoder, pending: PendingOutput, shapes: tuple[Shape, ...]) -> float:
    """Largest difference between the written graph and upstream, NaN if either has one."""
    import torch

    session = Session(str(pending.model_path), "cpu", CPU_ID)
    generator = torch.Generator().manual_seed(CHECK_SEED)
    errors = []
    for shape in shapes:
        latent = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            reference = decoder.reference(latent).numpy()
        video = session.run({INPUT: latent.numpy()})[OUTPUT]
        if video.shape != reference.shape:
            raise UserError(
                f"the graph makes {video.shape} of a latent {shape} where upstream makes "
                f"{reference.shape}; please report this."
            )
        errors.append(np.abs(video - reference).max())
    return float(np.max(errors))


@contextmanager
def _memory_errors() -> Iterator[None]:
    """PyTorch reports exhausted memory as a RuntimeError; say it as Python does."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise MemoryError from error
        raise
