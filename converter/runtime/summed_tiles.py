"""Allegro's tiles: cut along T, too, all of one size, faded at their edges and summed.

The arithmetic is that of `AutoencoderKLAllegro.tiled_decode` and `_prepare_for_blend` of diffusers,
which keeps every tile; here one tile and the video are held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converter.errors import UserError
from converter.runtime.tiles import Axis, Cut, Place, Tiles
from converter.session import Array


@dataclass(frozen=True, kw_only=True)
class SummedTiles(Tiles):
    """How a clip is cut.

    Attributes:
        time: Along T.
        frames: A latent frame makes so many frames of video.
    """

    time: Axis
    frames: int

    def needed(self, height: int, width: int) -> bool:
        """Always: a clip may be longer than a tile."""
        return True

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Why a latent (N, C, T, H, W) cannot be cut so, as a sentence; empty where it can.

        An axis is one tile or less, or a whole number of strides and the rest of a tile. Of other
        sizes diffusers leaves the end black.
        """
        for name, length, axis in zip("THW", shape[2:], self._axes, strict=True):
            if length > axis.size and (length - axis.size) % axis.stride:
                less = length - (length - axis.size) % axis.stride
                return (
                    f"the latent has {length} on {name}, which tiles of {axis.size}, one every "
                    f"{axis.stride}, do not cover; {less} and {less + axis.stride} would do. "
                    "Without tiles (--tile none) it is decoded in one run."
                )
        return ""

    def decode(self, latent: Array, decode: Cut) -> Array:
        """The video (N, 3, T * frames, H * space, W * space) of a latent (N, C, T, H, W).

        Raises:
            UserError: see `misfit`.
        """
        reason = self.misfit(latent.shape)
        if reason:
            raise UserError(reason)
        lengths = latent.shape[2:]
        scales = (self.frames, self.space, self.space)
        starts = [_starts(axis, n) for axis, n in zip(self._axes, lengths, strict=True)]
        video = np.empty(0)
        for index in np.ndindex(*map(len, starts)):
            at = tuple(s[i] for s, i in zip(starts, index, strict=True))
            cut = tuple(slice(a, a + x.size) for a, x in zip(at, self._axes, strict=True))
            place = Place(index[1], index[2], at[1], at[2])
            part = latent[:, :, cut[0], cut[1], cut[2]]
            tile = np.array(decode(place, np.ascontiguousarray(part)))
            if not video.size:
                sizes = (n * scale for n, scale in zip(lengths, scales, strict=True))
                video = np.zeros((*tile.shape[:2], *sizes), tile.dtype)
            for place_of, axis, scale, i, s in zip(
                (2, 3, 4), self._axes, scales, index, starts, strict=True
            ):
                _fade(tile, place_of, axis.overlap * scale, first=i == 0, last=i == len(s) - 1)
            begins = (a * scale for a, scale in zip(at, scales, strict=True))
            t, y, x = (slice(b, b + n) for b, n in zip(begins, tile.shape[2:], strict=True))
            video[:, :, t, y, x] += tile
        return video

    @property
    def _axes(self) -> tuple[Axis, Axis, Axis]:
        return self.time, self.height, self.width


def _starts(axis: Axis, length: int) -> range:
    """Of tiles that all have their full size, but where one is enough."""
    return range(0, max(1, length - axis.size + 1), axis.stride)


def _fade(tile: Array, axis: int, overlap: int, *, first: bool, last: bool) -> None:
    """Weigh the first pixels along an axis from 0 on, and the last from 1 down, in place."""
    if not overlap:
        return
    shape = [overlap if at == axis else 1 for at in range(5)]
    rising = (np.arange(overlap) / overlap).astype(np.float32).reshape(shape)
    begin: list[slice] = [slice(None)] * 5
    end = begin.copy()
    begin[axis] = slice(0, overlap)
    end[axis] = slice(tile.shape[axis] - overlap, None)
    if not first:
        tile[tuple(begin)] = tile[tuple(begin)] * rising
    if not last:
        tile[tuple(end)] = tile[tuple(end)] * (1 - rising)
