"""A graph or a stream as the server sees it: tensors in, tensors out, one result or several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from converter import manifest, model_file
from converter.bench.shapes import known_shapes, with_shapes
from converter.errors import UserError
from converter.manifest import is_manifest
from converter.providers import AUTO, make_session
from converter.runtime import Decoder
from converter.serving.datatypes import NUMPY, ONNXRUNTIME, name_of
from converter.session import HOST_IDS, PLAIN, Array, Session, SessionSettings, TensorInfo

Shape = tuple[int, ...]
Feed = Mapping[str, Array]
Results = dict[str, Array]

VERSION = "1"
"""The one version of every model."""

SHARED = ("FP16", "FP32", "FP64", "UINT8", "INT8", "INT32", "INT64")
"""Types of which NumPy can share an `OrtValue`'s memory."""

OPEN = -1
"""A dimension of any size."""


@dataclass(frozen=True)
class TensorMetadata:
    """An input or output; `datatype` is one of `datatypes.NUMPY`."""

    name: str
    datatype: str
    shape: Shape


class ServedModel(Protocol):
    """What the server needs of a model.

    Attributes:
        name: Under which clients ask for it.
        platform: What the file is, as Triton calls it.
        streams: Whether a run may have several results, the video chunk by chunk.
        description: What runs it, with versions and the nodes by execution provider.
    """

    name: str
    platform: str
    streams: bool
    description: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]

    def output_shapes(self, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """The shapes of a run's outputs, all results together; those that are not known lack."""
        ...

    def run(self, feed: Feed) -> Iterator[Results]:
        """Compute; raises `UserError` where the values do not fit."""
        ...


class GraphModel:
    """An ONNX graph of any inputs and outputs; a run has one result."""

    platform = "onnxruntime_onnx"
    streams = False

    def __init__(self, name: str, path: Path, provider: str, settings: SessionSettings) -> None:
        self.name = name
        self._session = make_session(path, provider, settings)
        self.description = self._session.description
        self.inputs = tuple(_metadata(info, path) for info in self._session.inputs)
        self.outputs = tuple(_metadata(info, path) for info in self._session.outputs)
        self._skeleton = model_file.load(path).proto
        self._shapes: dict[tuple[tuple[str, Shape], ...], Mapping[str, Shape]] = {}

    def output_shapes(self, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """By shape inference on the graph without its weights."""
        key = tuple(sorted(shapes.items()))
        if key not in self._shapes:
            known = known_shapes(with_shapes(self._skeleton, shapes).graph)
            outputs = {one.name: known[one.name] for one in self.outputs if one.name in known}
            self._shapes = {**dict(list(self._shapes.items())[-63:]), key: outputs}
        return self._shapes[key]

    def run(self, feed: Feed) -> Iterator[Results]:
        """Every output at once, where it can be in the memory that onnxruntime made it in."""
        made = self._session.run_values({name: Session.value(feed[name]) for name in feed})
        yield {one.name: self._array(one, made[one.name]) for one in self.outputs}

    def _array(self, one: TensorMetadata, value: object) -> Array:
        if one.datatype in SHARED and self._session.provider_id in HOST_IDS:
            return np.from_dlpack(Session.dlpack(value))
        return Session.array(value)


class StreamModel:
    """A decoder in stream form: latent -> video; a result for every chunk of latent frames."""

    platform = "convert_vae_stream"
    streams = True

    def __init__(self, name: str, path: Path, provider: str, settings: SessionSettings) -> None:
        self.name = name
        self._spec = manifest.read(path).spec
        self._decoder = Decoder(path, provider, settings)
        if self._decoder.dtype != np.float32:
            raise UserError(f"{path} takes {self._decoder.dtype}; streams of float32 are served.")
        self.description = self._decoder.description
        n, c, _, h, w = (OPEN if size is None else size for size in self._decoder.latent)
        space = self._spec.space
        height, width = (OPEN if size == OPEN else size * space for size in (h, w))
        self._bytes = self._decoder.video_dtype == np.uint8
        video = self._video(n, OPEN, height, width)
        latent = (n, c, OPEN, h, w)
        self.inputs: tuple[TensorMetadata, ...] = (
            TensorMetadata(self._spec.latent_name, "FP32", latent),
        )
        self.outputs: tuple[TensorMetadata, ...] = (
            TensorMetadata(self._spec.video_name, name_of(self._decoder.video_dtype), video),
        )

    def output_shapes(self, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """By the rule of the manifest."""
        n, _, t, h, w = shapes[self._spec.latent_name]
        frames = self._decoder.frames(t)
        if frames is None:
            return {}
        space = self._spec.space
        return {self._spec.video_name: self._video(n, frames, h * space, w * space)}

    def run(self, feed: Feed) -> Iterator[Results]:
        """Chunk by chunk."""
        for frames in self._decoder.stream(feed[self._spec.latent_name]):
            yield {self._spec.video_name: frames}

    def _video(self, n: int, t: int, h: int, w: int) -> Shape:
        c = self._spec.video_channels
        return (n, t, h, w, c) if self._bytes else (n, c, t, h, w)


def open_model(
    path: Path,
    name: str | None = None,
    provider: str = AUTO,
    settings: SessionSettings | None = None,
) -> ServedModel:
    """Load a graph (.onnx) or a stream's manifest (.json); its name is that of the file.

    Raises:
        UserError: the file or the provider is not in order.
    """
    arguments = name or path.stem, path, provider, settings or SessionSettings()
    return StreamModel(*arguments) if is_manifest(path) else GraphModel(*arguments)


@dataclass(frozen=True)
class ModelFile:
    """What a model is opened from, by `open_model`; to be sent to other processes."""

    path: Path
    name: str | None = None
    provider: str = AUTO
    settings: SessionSettings = PLAIN

    def open(self) -> ServedModel:
        """Load it; raises `UserError` where the file or the provider is not in order."""
        return open_model(self.path, self.name, self.provider, self.settings)


def time_axis(video: Array) -> int:
    """Of a video's frames: bytes are (N, T, H, W, C), other types (N, C, T, H, W)."""
    return 1 if video.dtype == np.uint8 else 2


def tensor_bytes(datatype: str, shape: Shape) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * NUMPY[datatype].itemsize


def _metadata(info: TensorInfo, path: Path) -> TensorMetadata:
    datatype = ONNXRUNTIME.get(info.type)
    if datatype is None:
        raise UserError(f"{path} cannot be served: {info.name} is a {info.type}.")
    sizes = tuple(size if isinstance(size, int) else OPEN for size in info.shape)
    return TensorMetadata(info.name, datatype, sizes)
