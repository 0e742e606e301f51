"""Frames into a video file, frame by frame: H.264 in .mp4, VP9 in .webm, by PyAV."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from converter.errors import UserError

Frames = np.ndarray[Any, np.dtype[np.uint8]]

SUFFIXES = (".mp4", ".webm")

# A container that is whole at every keyframe, so that what was written before a full disk or a
# killed process plays. Into a file that can be gone back in, closing it makes a plain one of it.
_FILE_FLAGS = "hybrid_fragmented"
_STREAM_FLAGS = "frag_keyframe+empty_moov+default_base_moof"
_BT709 = 1  # of primaries, transfer and matrix alike: ITU-T H.273, tables 2 to 4
_LIMITED_RANGE = 1


@dataclass(frozen=True)
class Encoding:
    """How frames become a video.

    Attributes:
        fps: Frames a second.
        crf: Constant rate factor, smaller is better: 0 to 51 for H.264, 0 to 63 for VP9.
    """

    fps: Fraction = Fraction(16)
    crf: int = 12


def to_uint8(frames: np.ndarray[Any, np.dtype[Any]]) -> Frames:
    """Frames (3, T, H, W) in [-1, 1] as bytes (T, H, W, 3), clamped and rounded.

    The same values as `diffusers.video_processor.VideoProcessor` gives.
    """
    scaled = (frames.astype(np.float32) / 2 + np.float32(0.5)).clip(0, 1) * 255
    pixels: Frames = np.round(scaled).astype(np.uint8).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(pixels)


class VideoWriter:
    """An open video; as a context manager it is closed also where an exception passes.

    Args:
        target: A path, or a file object that only needs `write`.
        encoding: Frame rate and quality.
        suffix: The container, one of `SUFFIXES`; by default that of the path.

    Raises:
        UserError: PyAV is not installed, or lacks the encoder.
        OSError: the file cannot be written. What was written before stays playable.
    """

    def __init__(
        self, target: Path | IO[bytes], encoding: Encoding = Encoding(), suffix: str | None = None
    ) -> None:
        kind = suffix or Path(getattr(target, "name", target)).suffix  # type: ignore[arg-type]
        if kind not in SUFFIXES:
            raise UserError(f"{target} is none of {', '.join(SUFFIXES)}.")
        self._av = _library()
        self._encoding = encoding
        self._kind = kind
        is_path = isinstance(target, Path)
        flags = {"movflags": _FILE_FLAGS if is_path else _STREAM_FLAGS} if kind == ".mp4" else {}
        self._container = self._av.open(
            str(target) if is_path else target, "w", format=kind[1:], options=flags
        )
        self._stream: Any = None
        self._written = 0

    def write(self, frames: Frames) -> None:
        """Append frames (T, H, W, 3) of red, green and blue; all must be of one size.

        Both codecs halve the resolution of colour, so an odd last row or column is repeated.
        """
        height, width = frames.shape[1:3]
        even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._open_stream(even.shape[2], even.shape[1])
        for pixels in even:
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            converted = frame.reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            converted.pts = self._written
            self._container.mux(self._stream.encode(converted))
            self._written += 1

    def close(self) -> None:
        """Write what the encoder still holds, and the end of the file; again, it does nothing."""
        stream, self._stream = self._stream, None  # what has failed is not tried again
        try:
            if stream is not None:
                self._container.mux(stream.encode())
        finally:
            self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # else the first error is the one to tell
                raise

    def _open_stream(self, width: int, height: int) -> Any:
        codec = {".mp4": "libx264", ".webm": "libvpx-vp9"}[self._kind]
        options = {"crf": str(self._encoding.crf)}
        if self._kind == ".webm":
            options |= {"b": "0", "row-mt": "1", "cpu-used": "4"}
        try:
            stream = self._container.add_stream(codec, rate=self._encoding.fps, options=options)
        except (ValueError, self._av.error.FFmpegError) as error:
            raise UserError(f"the installed PyAV has no encoder {codec}: {error}.") from error
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self._encoding.fps
        context.gop_size = max(1, round(self._encoding.fps))  # a second: what a failure may cost
        context.color_range = _LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        return stream


def _library() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise UserError(
            "writing video needs PyAV; install it by pip install 'convert-vae[video]'."
        ) from error
