"""What the clip form and the stream form of an export share."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from converter import origin
from converter.errors import UserError
from converter.export_graph import OPSETS
from converter.model_file import Model
from converter.version import VERSION

if TYPE_CHECKING:
    from models.base import Decoder, Encoder, Shape
    from models.source import Opened

CHECK_PROVIDER = "cpu"
"""Where a graph is compared with upstream: GPUs and NPUs may compute fp32 in less than fp32."""

DEFAULT_SIZE = 16
METADATA_PREFIX = "export_vae."
NO_MEMORY = ("can't allocate memory", "std::bad_alloc", "Failed to allocate memory")
"""In the messages of PyTorch's allocator, of C++ and of onnxruntime's allocator."""

NEEDS = ("torch", "diffusers", "onnxscript", "safetensors")


@dataclass
class Clock:
    """Seconds by phase; `notify` hears the name of each as it begins."""

    notify: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done within."""
        self.notify(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def refuse_opset(opset: int) -> None:
    """Raise `UserError` for an opset that cannot be exported."""
    if opset not in OPSETS:
        raise UserError(f"opset {opset} cannot be exported: take {OPSETS[0]} to {OPSETS[-1]}.")


def need_extra() -> None:
    """Raise `UserError` where a package of the extra is missing."""
    for module in NEEDS:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"{module} cannot be imported ({error}); exporting needs an extra: "
                "pip install 'convert-vae[export]'."
            ) from error


def open_decoder(source: str, seed: int | None) -> Opened:
    """`models.source.open_source`, imported when it is needed."""
    from models.source import open_source

    with memory_errors():
        return open_source(source, seed)


def fitting(decoder: Decoder, latent: tuple[int, ...]) -> tuple[Shape, Shape]:
    """A latent's shape and that of its video; raises `UserError` if the latent does not fit."""
    return _fitting("latent", latent, decoder.geometry.video_shape)


def fitting_video(encoder: Encoder, video: tuple[int, ...]) -> tuple[Shape, Shape]:
    """A video's shape and that of its latent; raises `UserError` if the video does not fit."""
    return _fitting("video", video, encoder.latent_shape)


def _fitting(
    kind: Literal["latent", "video"], sizes: tuple[int, ...], other: Callable[[Shape], Shape]
) -> tuple[Shape, Shape]:
    text = "x".join(map(str, sizes))
    if len(sizes) != 5:
        raise UserError(f"the {kind} {text} has {len(sizes)} sizes; give five, NxCxTxHxW.")
    n, c, t, h, w = sizes
    try:
        return (n, c, t, h, w), other((n, c, t, h, w))
    except ValueError as error:
        raise UserError(f"the {kind} {text} (NxCxTxHxW) does not fit: {error}.") from error


def add_notes(model: Model, source: str, opened: Opened) -> None:
    """Say in the file where it comes from. Of a folder only the name: its path is private."""
    geometry = opened.decoder.geometry
    notes = {
        "version": VERSION,
        "source": Path(source).name,
        "family": opened.family.name,
        "weights": "read" if opened.seed is None else f"random, seed {opened.seed}",
        "scale": geometry.rule(),
    }
    for key, value in notes.items():
        model.proto.metadata_props.add(key=METADATA_PREFIX + key, value=value)
    text = json.dumps(opened.origin.to_json())
    model.proto.metadata_props.add(key=origin.KEY, value=text)


def count_conv3d(model: Model) -> int:
    """Convs whose weights have rank 5."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.proto.graph.initializer}
    convs = (node for node in model.proto.graph.node if node.op_type == "Conv")
    return sum(ranks.get(node.input[1]) == 5 for node in convs)


@contextmanager
def memory_errors() -> Iterator[None]:
    """PyTorch and onnxruntime report exhausted memory in words; say it as Python does."""
    try:
        yield
    except (RuntimeError, UserError) as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise MemoryError from error
        raise
