"""Decode latents of files into files: one, or a folder of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from converter import memory
from converter.errors import UserError
from converter.runtime.latent_files import read_latent
from converter.runtime.outputs import FOLDER, RAW, Format, Output, partial_path, raw, writing
from converter.session import Array

Notify = Callable[[int, int | None], None]
"""Told how many frames of the video are done, and of how many, where that is known."""


class FileDecoder(Protocol):
    """What decodes: `Decoder`, or `ServedDecoder`."""

    video_dtype: np.dtype[Any]

    def frames(self, count: int) -> int | None:
        """Frames of video of `count` latent frames; None where only a run will tell."""
        ...

    def stream(self, latent: Array, *, uint8: bool = False) -> Iterator[Array]:
        """The video's chunks in order; raises `UserError` before the first."""
        ...


@dataclass(frozen=True)
class Done:
    """A video that was written.

    Attributes:
        frames: Its frames; 0 where it was there already.
        seconds: Time spent, reading and writing included.
        peak_bytes: Largest resident set of the process so far; None where the system does not tell.
    """

    latent: Path
    output: str
    frames: int
    seconds: float
    peak_bytes: int | None

    @property
    def skipped(self) -> bool:
        """Whether it was there already."""
        return self.frames == 0


class PartlyWrittenError(UserError):
    """The disk was full, or the like, when some frames were written already."""


def decode_file(
    decoder: FileDecoder, latent: Path, name: str | None, out: Path, form: Format, notify: Notify
) -> Done:
    """Decode one file into `out`, which gets its name when it is complete.

    Raises:
        UserError: the latent does not fit; nothing was written.
        PartlyWrittenError: the output could be written in part only.
        OSError: it could not be written at all.
    """
    start = time.perf_counter()
    z, chunks = _open(decoder, latent, name, form)
    total = decoder.frames(z.shape[2])
    return _write(latent, str(out), chunks, writing(out, form, total), total, form, notify, start)


def decode_to_pipe(
    decoder: FileDecoder, latent: Path, name: str | None, pipe: IO[bytes], notify: Notify
) -> Done:
    """Decode one file into raw frames, as they are made."""
    form = Format(RAW)
    start = time.perf_counter()
    z, chunks = _open(decoder, latent, name, form)
    total = decoder.frames(z.shape[2])
    return _write(latent, RAW, chunks, closing(raw(pipe)), total, form, notify, start)


def _open(
    decoder: FileDecoder, latent: Path, name: str | None, form: Format
) -> tuple[Array, Iterator[Array]]:
    if decoder.video_dtype == np.uint8 and not form.wants_bytes:
        raise UserError("this decoder makes bytes, not floats: give --uint8.")
    z = read_latent(latent, name)
    try:
        return z, decoder.stream(z, uint8=form.wants_bytes)
    except UserError as error:
        raise UserError(f"{latent}: {error}") from error


def _write(
    latent: Path,
    out: str,
    chunks: Iterator[Array],
    opened: AbstractContextManager[Output],
    total: int | None,
    form: Format,
    notify: Notify,
    start: float,
) -> Done:
    frames = 0
    notify(0, total)
    try:
        with opened as output:
            for chunk in chunks:
                output.write(chunk)
                frames += chunk.shape[1 if form.wants_bytes else 2]
                notify(frames, total)
    except OSError as error:
        kept = _kept(Path(out), form)
        if kept is None:
            raise
        raise PartlyWrittenError(
            f"{error.strerror or error}; the frames before that, up to {frames}, are in {kept}."
        ) from error
    seconds = time.perf_counter() - start
    return Done(latent, out, frames, seconds, memory.peak_bytes())


def _kept(out: Path, form: Format) -> Path | None:
    """What `writing` has left of a video, if that holds a frame."""
    pending = partial_path(out)
    if form.kind == FOLDER:
        return pending if pending.is_dir() and any(pending.iterdir()) else None
    return pending if pending.is_file() and pending.stat().st_size else None
