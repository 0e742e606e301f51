"""Where a video goes, chunk by chunk: a video file, a folder of pictures, an array, raw frames.

What is not complete bears another name, `NAME.partial.SUFFIX`. It is renamed when its last frame is
on the disk: so what bears its own name is finished, and nothing else is.
"""

from __future__ import annotations

import importlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from converter.errors import UserError
from converter.session import Array
from converter.video_file import SUFFIXES as VIDEO_SUFFIXES
from converter.video_file import Encoding, VideoWriter

ARRAY = ".npy"
FOLDER = "png"
RAW = "-"
PICTURE = "{:06d}.png"


@dataclass(frozen=True)
class Format:
    """What a video becomes.

    Attributes:
        kind: One of `.mp4`, `.webm`, `.npy`, `png` (a folder of pictures), `-` (raw on stdout).
        encoding: Of a video file.
        uint8: Whether an array holds bytes (1, T, H, W, 3) rather than floats (1, 3, T, H, W).
    """

    kind: str
    encoding: Encoding = field(default_factory=Encoding)
    uint8: bool = False

    @property
    def wants_bytes(self) -> bool:
        """Whether frames are to come as bytes."""
        return self.kind != ARRAY or self.uint8


class Output(ABC):
    """A video being written; `write` takes chunks as `Decoder.stream` makes them."""

    @abstractmethod
    def write(self, chunk: Array) -> None:
        """Append a chunk of one clip."""

    @abstractmethod
    def close(self) -> None:
        """Write what is held back, so that what was written counts even if more cannot be."""


class _Video(Output):
    def __init__(self, path: Path, encoding: Encoding) -> None:
        self._path = path
        self._writer = VideoWriter(path, encoding)

    def write(self, chunk: Array) -> None:
        self._writer.write(chunk[0])

    def close(self) -> None:
        self._writer.close()
        _sync(self._path)


class _Pictures(Output):
    def __init__(self, path: Path) -> None:
        self._image = _pillow()
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        self._path, self._count = path, 0

    def write(self, chunk: Array) -> None:
        for frame in chunk[0]:
            path = self._path / PICTURE.format(self._count)
            try:
                self._image.fromarray(frame).save(path)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            self._count += 1

    def close(self) -> None:
        for path in self._path.iterdir():
            _sync(path)


class _Numbers(Output):
    """An .npy file, filled in place: the axis of the frames is not the first one."""

    def __init__(self, path: Path, frames: int | None, axis: int) -> None:
        self._path, self._frames, self._axis = path, frames, axis
        self._file: IO[bytes] = path.open("wb")
        self._start = self._written = 0

    def write(self, chunk: Array) -> None:
        axis = self._axis
        total = self._frames or chunk.shape[axis]
        shape = (*chunk.shape[:axis], total, *chunk.shape[axis + 1 :])
        if self._start == 0:
            header = {"descr": chunk.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(self._file, header)
            self._start = self._file.tell()
        frame = chunk[(0,) * (axis + 1)].nbytes
        outer = chunk.reshape(-1, *chunk.shape[axis:])
        for number, part in enumerate(outer):
            self._file.seek(self._start + (number * total + self._written) * frame)
            self._file.write(np.ascontiguousarray(part).data)
        self._written += chunk.shape[axis]

    def close(self) -> None:
        self._file.close()
        _sync(self._path)


class _Raw(Output):
    """Frames one after the other, each H * W * 3 bytes: `rgb24` of FFmpeg. Not buffered."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, chunk: Array) -> None:
        left = memoryview(np.ascontiguousarray(chunk).data).cast("B")
        try:
            while left:
                left = left[self._file.write(left) :]
        except BrokenPipeError as error:
            raise UserError("whoever read the frames has left.") from error

    def close(self) -> None:
        """Nothing is held back."""


def partial_path(path: Path) -> Path:
    """Where a video is as long as it is not complete."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


@contextmanager
def writing(path: Path, form: Format, frames: int | None) -> Iterator[Output]:
    """An output that gets its name when the block ends without an exception.

    On an `OSError`, such as a full disk, complete frames of a video file or folder stay under the
    partial name; after any other exception, and of an array, nothing stays.

    Args:
        path: The file or folder; what is there is replaced.
        form: What to write.
        frames: How many there will be, where that is known.
    """
    pending = partial_path(path)
    output = _open(pending, form, frames)
    try:
        yield output
        output.close()
    except OSError:
        _close_quietly(output)
        if form.kind == ARRAY:
            remove(pending)
        raise
    except BaseException:
        _close_quietly(output)
        remove(pending)
        raise
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(pending, path)


def raw(file: IO[bytes]) -> Output:
    """Raw frames into a file object."""
    return _Raw(file)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _open(path: Path, form: Format, frames: int | None) -> Output:
    if form.kind in VIDEO_SUFFIXES:
        return _Video(path, form.encoding)
    if form.kind == FOLDER:
        return _Pictures(path)
    return _Numbers(path, frames, axis=1 if form.uint8 else 2)


def _close_quietly(output: Output) -> None:
    with suppress(OSError):  # the first error is the one to tell
        output.close()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise UserError(
            "writing pictures needs Pillow; install it by pip install 'convert-vae[video]'."
        ) from error
