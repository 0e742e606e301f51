"""The graphs of a decoder in onnxruntime: one for a whole clip, or two for chunk after chunk."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from converter import manifest, origin, providers
from converter.errors import UserError
from converter.manifest import FIRST, NEXT, Manifest
from converter.origin import Origin
from converter.runtime.unclamped import unclamped
from converter.session import Array, Session, SessionSettings, TensorInfo

Value = Any
"""An `OrtValue`, on the device that made it; or an array, where the host made it."""

Passage = Callable[[Array], Value]
"""Takes the latent frames of one clip in order, a chunk a call, and gives their video."""

Size = int | None
"""None where any size will do."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
}


class Graphs(ABC):
    """What decodes a latent (N, C, T, H, W).

    Attributes:
        latent: The sizes (N, C, T, H, W) that are taken; T is None where any length will do.
        dtype, video_dtype: Of the latent and of the video.
        chunk: Latent frames a run; None where a whole clip is one run.
        session: The session that does most of the work.
        origin: The upstream decoder that they were made of; None if they do not say.
        space: H' = H * space, W' = W * space; None where it is not known.
        clamp: Whether a clamp to [-1, 1] was left out of the graphs, for the caller to make good.
        lead: Latent frames that the first run of a clip takes more than the others.
        multiple: T is `lead` and a positive multiple of this.
    """

    latent: tuple[Size, Size, Size, Size, Size]
    dtype: np.dtype[Any]
    video_dtype: np.dtype[Any]
    chunk: int | None
    session: Session
    origin: Origin | None
    space: int | None
    clamp: bool
    lead: int = 0
    multiple: int = 1

    @abstractmethod
    def begin(self) -> Passage:
        """Begin a clip. Several may be under way at once."""

    @abstractmethod
    def frames(self, start: int, count: int) -> int | None:
        """Frames of video that `count` latent frames from `start` on make; None if not known."""


class ClipGraph(Graphs):
    """A graph latent -> video; raises `UserError` where it is not one."""

    chunk = None

    def __init__(
        self, path: Path, provider: str, settings: SessionSettings, *, raw: bool = False
    ) -> None:
        self.session, self.clamp = _load(path, None, provider, settings, raw)
        if len(self.session.inputs) != 1 or len(self.session.outputs) != 1:
            raise UserError(
                f"{path} has {len(self.session.inputs)} inputs and {len(self.session.outputs)} "
                "outputs; a decoder has a latent and a video. Of a stream, name the manifest."
            )
        self._input, self._output = self.session.inputs[0], self.session.outputs[0]
        if len(self._input.shape) != 5 or len(self._output.shape) != 5:
            raise UserError(f"{path} is no decoder: its input and output are not of rank 5.")
        self.dtype = _dtype(path, self._input)
        self.video_dtype = _dtype(path, self._output)
        self.origin = origin.of_text(self.session.metadata.get(origin.KEY), str(path))
        self.space = self.origin.space if self.origin else None
        n, c, t, h, w = (size if isinstance(size, int) else None for size in self._input.shape)
        self.latent = (n, c, t, h, w)

    def begin(self) -> Passage:
        """The whole clip is one run."""

        def decode(part: Array) -> Value:
            feed = {self._input.name: self.session.value(part)}
            return self.session.run_values(feed)[self._output.name]

        return decode

    def frames(self, start: int, count: int) -> int | None:
        """By the origin's rule, or else where T is fixed."""
        if self.origin is not None:
            return self.origin.video_frames(count)
        size = self._output.shape[2]
        return size if isinstance(size, int) else None


class StreamGraphs(Graphs):
    """The two graphs of a manifest; the caches stay on the device between chunks."""

    def __init__(
        self, read: Manifest, provider: str, settings: SessionSettings, *, raw: bool = False
    ) -> None:
        self.spec = read.spec
        video = self.spec.video_name
        self.session, self.clamp = _load(read.path(NEXT), video, provider, settings, raw)
        self._first, _ = _load(read.path(FIRST), video, provider, settings, raw)
        types = {info.name: info for info in (*self.session.inputs, *self.session.outputs)}
        self.dtype = _dtype(read.path(NEXT), types[self.spec.latent_name])
        self.video_dtype = _dtype(read.path(NEXT), types[self.spec.video_name])
        self.origin, self.space = self.spec.origin, self.spec.space
        self.chunk, self.lead = self.spec.chunk, self.spec.lead
        self.multiple = self.spec.multiple
        n, c, _, h, w = self.spec.latent
        self.latent = (n, c, None, h, w)

    def begin(self) -> Passage:
        """A chunk that is not full repeats its last latent frame.

        What is made of the repetitions is for the caller to drop: it is behind `frames`. As no
        frame depends on a later one, the others stay as they are.
        """
        spec = self.spec
        caches: dict[str, Value] | None = None

        def decode(part: Array) -> Value:
            nonlocal caches
            wanted = spec.first_frames() if caches is None else spec.chunk
            missing = wanted - part.shape[2]
            part = np.concatenate([part, *[part[:, :, -1:]] * missing], axis=2)
            session = self._first if caches is None else self.session
            feed = {spec.latent_name: session.value(part), **(caches or {})}
            made = session.run_values(feed)
            caches = {cache.input: made[cache.output] for cache in spec.caches}
            return made[spec.video_name]

        return decode

    def frames(self, start: int, count: int) -> int:
        """The first latent frame of a clip makes one frame, every other `time`."""
        return count * self.spec.time - (0 if start else self.spec.time - 1)


def open_graphs(
    path: str | os.PathLike[str],
    provider: str,
    settings: SessionSettings | None,
    *,
    raw: bool = False,
) -> Graphs:
    """The graphs of a manifest or of a clip graph; with `raw` see `Graphs.clamp`.

    Raises:
        UserError: a file is missing, changed, or not what it should be, or the provider is not
            usable.
    """
    path = Path(path)
    settings = replace(settings or SessionSettings(), arena=False)
    if manifest.is_manifest(path):
        return StreamGraphs(manifest.read(path), provider, settings, raw=raw)
    if not path.is_file():
        raise UserError(f"the decoder {path} does not exist or is not a file.")
    graphs = ClipGraph(path, provider, settings, raw=raw)
    if graphs.origin is not None and graphs.origin.graph.encoder:
        raise UserError(f"{path} encodes: it makes latents of videos. Name a decoder.")
    return graphs


def _load(
    path: Path, video: str | None, provider: str, settings: SessionSettings, raw: bool
) -> tuple[Session, bool]:
    """The session of a graph, and whether a clamp of its video was left out."""
    content = unclamped(path, video) if raw else None
    if content is None:
        return providers.make_session(path, provider, settings), False
    settings = replace(settings, data_folder=str(path.parent.resolve()))
    return providers.make_session(content, provider, settings), True


def _dtype(path: Path, info: TensorInfo) -> np.dtype[Any]:
    if info.type not in DTYPES:
        raise UserError(f"{path} is no decoder: {info.name} is {info.type}.")
    return DTYPES[info.type]
