"""From a latent to a video, chunk by chunk, in memory that does not grow with the clip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from converter.errors import UserError
from converter.providers import AUTO
from converter.runtime.arrays import Library, library_of, to_numpy
from converter.runtime.graphs import open_graphs
from converter.runtime.tiled import TiledGraphs
from converter.runtime.tiles import Tiles
from converter.session import Array, SessionSettings
from converter.video_file import to_uint8

FLOATS = tuple(map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)))


class Decoder:
    """A decoder at work.

    Args:
        path: A clip graph (.onnx), or the manifest of a stream (.json).
        provider: Execution provider; `auto` takes the best that is usable here.
        settings: Of its sessions.
        tiles: How frames that are larger than one tile are cut; None to decode them whole.

    Attributes:
        latent: The sizes (N, C, T, H, W) that are taken, None where any will do.
        dtype: Of the latent; narrower floats are taken too.
        video_dtype: Of the graph's video; one that makes bytes makes them always.
        chunk: Latent frames a run; None where a whole clip is one run.
        origin: The upstream decoder that the graphs were made of; None if they do not say.
        space: H' = H * space, W' = W * space; None where it is not known.

    Raises:
        UserError: a file is missing, was changed, or is no decoder; the provider is not usable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provider: str = AUTO,
        settings: SessionSettings | None = None,
        tiles: Tiles | None = None,
    ) -> None:
        graphs = open_graphs(path, provider, settings, raw=tiles is not None)
        self._graphs = graphs if tiles is None else TiledGraphs(graphs, tiles)
        self.latent = self._graphs.latent
        self.dtype = self._graphs.dtype
        self.video_dtype = self._graphs.video_dtype
        self.chunk = self._graphs.chunk
        self.origin = self._graphs.origin
        self.space = self._graphs.space

    @property
    def description(self) -> str:
        """What runs the graphs, with its version."""
        return self._graphs.session.description

    def frames(self, count: int) -> int | None:
        """Frames of video that `count` latent frames make; None where only a run will tell."""
        return self._graphs.frames(0, count)

    def stream(self, latent: Any, *, uint8: bool = False) -> Iterator[Any]:
        """The video of a latent (N, C, T, H, W), as chunks (N, 3, t, H', W') in order.

        They are of the latent's library: NumPy arrays, or PyTorch tensors on its device. A clip
        graph makes one chunk.

        Args:
            latent: NumPy, PyTorch, or any tensor that offers DLPack.
            uint8: Pixels of 0 to 255 as (N, t, H', W', 3), rather than -1 to 1.

        Raises:
            UserError: the latent does not fit; before the first chunk.
        """
        z = self._fitting(to_numpy(latent))
        batch = self.latent[0]
        if batch is not None and z.shape[0] != batch:
            raise UserError(
                f"the latent has {z.shape[0]} on N, but this decoder was made for {batch}: "
                "stream one clip at a time, or take decode."
            )
        return self._chunks(z, library_of(latent), uint8)

    def decode(self, latent: Any, *, uint8: bool = False) -> Any:
        """The whole video (N, 3, T', H', W'); with `uint8` (N, T', H', W', 3).

        More clips than the graph takes are decoded one after the other.

        Args, Raises: As of `stream`.
        """
        z = self._fitting(to_numpy(latent))
        n, batch = z.shape[0], self.latent[0] or z.shape[0]
        if n % batch:
            raise UserError(f"the latent has {n} on N, no multiple of this decoder's {batch}.")
        plain = library_of(z)
        videos = [
            list(self._chunks(z[start : start + batch], plain, uint8))
            for start in range(0, n, batch)
        ]
        axis = 1 if uint8 or self.video_dtype == np.uint8 else 2
        video = np.concatenate([np.concatenate(chunks, axis) for chunks in videos])
        return library_of(latent).of_array(video)

    def _chunks(self, z: Array, library: Library, uint8: bool) -> Iterator[Any]:
        graphs, total = self._graphs, z.shape[2]
        decode = graphs.begin()
        chunk = self.chunk or total
        starts = [0, *range(chunk + graphs.lead, total, chunk)]
        for start, stop in zip(starts, [*starts[1:], total], strict=True):
            part = z[:, :, start:stop]
            frames = graphs.frames(start, part.shape[2])
            value = decode(part)
            given = library.of_array if isinstance(value, np.ndarray) else library.of_value
            if graphs.video_dtype == np.uint8:
                yield given(value)[:, :frames]
            elif uint8:
                video = value if isinstance(value, np.ndarray) else graphs.session.array(value)
                yield library.of_array(to_pixels(video[:, :, :frames]))
            else:
                yield given(value)[:, :, :frames]

    def _fitting(self, z: Array) -> Array:
        """The latent in the graph's type; raises `UserError` where it does not fit."""
        z = as_latent(z, self._graphs.dtype)
        for axis in "CTHW":
            place = "NCTHW".index(axis)
            size, given = self.latent[place], z.shape[place]
            if size not in (None, given):
                raise UserError(
                    f"the latent has {given} on {axis}, but this decoder was made for {size}; "
                    "export it for that size."
                )
        least = 1 if self.origin is None else self.origin.least
        if min(z.shape[3:]) < least:
            raise UserError(
                f"the latent has {z.shape[3]} on H and {z.shape[4]} on W, but this decoder takes "
                f"no less than {least}."
            )
        lead, multiple = self._graphs.lead, self._graphs.multiple
        if z.shape[2] <= lead or (z.shape[2] - lead) % multiple:
            raise UserError(
                f"the latent has {z.shape[2]} on T, but this decoder takes {lead} and a multiple "
                f"of {multiple}: {lead + multiple}, {lead + 2 * multiple} and so on."
            )
        return z


def as_latent(z: Array, wanted: np.dtype[Any]) -> Array:
    """A latent in the type that is wanted.

    Raises:
        UserError: it is no finite (N, C, T, H, W), or of a type that does not fit into the other.
    """
    if z.ndim != 5 or 0 in z.shape:
        raise UserError(f"a latent is (N, C, T, H, W), not of shape {z.shape}.")
    if z.dtype not in FLOATS or not np.can_cast(z.dtype, wanted):
        raise UserError(f"the latent is {z.dtype}; this decoder takes {wanted}.")
    if not np.isfinite(z).all():
        raise UserError("the latent has values that are not finite (NaN or infinity).")
    return z.astype(wanted, copy=False)


def to_pixels(video: Array) -> Array:
    """Pixels (N, T, H, W, 3) of 0 to 255 of a video (N, 3, T, H, W) of -1 to 1."""
    return np.stack([to_uint8(clip) for clip in video])
