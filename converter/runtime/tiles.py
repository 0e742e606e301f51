"""A frame in overlapping tiles, each decoded alone, blended where they overlap.

The arithmetic is that of diffusers' `tiled_decode`, with memory for one tile, a seam of the row
above and the video, where diffusers keeps every tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from converter.session import Array

Cut = Callable[["Place", Array], Array]
"""Decodes the latent (N, C, T, h, w) of the tile at a place to (N, 3, T', h * space, w * space)."""


@dataclass(frozen=True)
class Axis:
    """Tiles along H or W, in latent pixels: `size` each, a new one every `stride`.

    The last tiles may be smaller. Raises ValueError unless 0 < stride <= size.
    """

    size: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.size:
            raise ValueError(f"tiles of {self.size} cannot begin every {self.stride}")

    @property
    def overlap(self) -> int:
        """What two tiles have in common."""
        return self.size - self.stride

    def starts(self, length: int) -> range:
        """Where the tiles of so many latent pixels begin."""
        return range(0, length, self.stride)


@dataclass(frozen=True)
class Place:
    """The tile of a row and a column, and where its first latent pixel is."""

    row: int
    column: int
    top: int
    left: int


@dataclass(frozen=True)
class Tiles:
    """How a frame is cut.

    Attributes:
        height, width: Along H and W.
        space: A latent pixel makes so many pixels along H and W.
        step: Blending weights are constant over so many pixels. Diffusers blends Wan 2.2 before
            its patches become pixels, where this is the size of a patch; else 1.
    """

    height: Axis
    width: Axis
    space: int
    step: int = 1

    def needed(self, height: int, width: int) -> bool:
        """Whether a latent of height x width is larger than one tile."""
        return height > self.height.size or width > self.width.size

    def places(self, height: int, width: int) -> Iterator[Place]:
        """The tiles of a latent of height x width, row by row."""
        for row, top in enumerate(self.height.starts(height)):
            for column, left in enumerate(self.width.starts(width)):
                yield Place(row, column, top, left)

    def decode(self, latent: Array, decode: Cut) -> Array:
        """The video (N, 3, T', H * space, W * space) of a latent (N, C, T, H, W).

        Diffusers' order matters at corners: a tile is blended with the one above, then with the
        one to the left, both of which were blended themselves.
        """
        height, width = latent.shape[3:]
        space, step = self.space, self.step
        rows, columns = self.height.overlap * space, self.width.overlap * space
        keep_rows, keep_columns = self.height.stride * space, self.width.stride * space
        above: dict[int, Array] = {}
        left = video = np.empty(0)
        for place in self.places(height, width):
            part = latent[
                ...,
                place.top : place.top + self.height.size,
                place.left : place.left + self.width.size,
            ]
            tile = np.array(decode(place, np.ascontiguousarray(part)))
            if not video.size:
                video = np.empty((*tile.shape[:3], height * space, width * space), tile.dtype)
            if place.row:
                _blend(above[place.column], tile, 3, rows, step)
            if place.column:
                _blend(left, tile, 4, columns, step)
            # Copies: a view would keep the whole tile.
            above[place.column] = _last(tile, 3, rows).copy()
            left = _last(tile, 4, columns).copy()
            kept = tile[..., :keep_rows, :keep_columns]
            y, x = place.top * space, place.left * space
            video[..., y : y + kept.shape[3], x : x + kept.shape[4]] = kept
        return video


def _last(tile: Array, axis: int, count: int) -> Array:
    """The last `count` pixels along an axis; all where there are fewer."""
    size = tile.shape[axis]
    pixels: Array = np.take(tile, range(max(0, size - count), size), axis)
    return pixels


def _blend(before: Array, tile: Array, axis: int, overlap: int, step: int) -> None:
    """Fade the last pixels of `before` into the first of `tile`, in place.

    As diffusers does, the last pixels of `before` are taken where a tile at the edge is smaller
    than the overlap, though the two then do not show the same place.
    """
    count = min(before.shape[axis], tile.shape[axis], overlap)
    if not count:
        return
    first: list[slice] = [slice(None)] * 5
    last = first.copy()
    first[axis], last[axis] = slice(0, count), slice(before.shape[axis] - count, None)
    weight = (np.arange(count) // step / (count // step)).astype(np.float32)
    weight = weight.reshape([count if at == axis else 1 for at in range(5)])
    tile[tuple(first)] = before[tuple(last)] * (1 - weight) + tile[tuple(first)] * weight
