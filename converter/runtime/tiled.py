"""Graphs that decode a frame tile by tile; a tile keeps its own caches through all frames."""

from __future__ import annotations

import numpy as np

from converter.errors import UserError
from converter.runtime.graphs import Graphs, Passage, Value
from converter.runtime.tiles import Place, Tiles
from converter.session import Array


class TiledGraphs(Graphs):
    """Other graphs, given a tile at a time. A latent of one tile or less goes in whole.

    Chunk after chunk, every tile is decoded and blended before the next chunk begins: what is kept
    between chunks does not grow with the clip.

    Args:
        inner: What decodes a tile, opened `raw`: a clamp comes after blending.
        tiles: How frames are cut.

    Raises:
        UserError: tiles of the graphs cannot be blended.
    """

    def __init__(self, inner: Graphs, tiles: Tiles) -> None:
        if inner.video_dtype == np.uint8:
            raise UserError(
                "this graph makes bytes, which cannot be blended: export it without --uint8, or "
                "decode without tiles."
            )
        n, c, t, h, w = inner.latent
        fixed = [f"{a} = {size}" for a, size in (("H", h), ("W", w)) if size is not None]
        if fixed:
            raise UserError(
                f"this graph was made for latents of {' and '.join(fixed)}, and tiles are of "
                "several sizes: export it with any H and W, or decode without tiles."
            )
        self.inner, self.tiles, self.clamp = inner, tiles, False
        self.latent = (n, c, t, h, w)
        self.dtype, self.video_dtype = inner.dtype, inner.video_dtype
        self.chunk, self.session = inner.chunk, inner.session
        self.lead, self.multiple = inner.lead, inner.multiple
        self.origin, self.space = inner.origin, inner.space

    def begin(self) -> Passage:
        """See `Graphs.begin`."""
        passages: dict[Place, Passage] = {}

        def one(place: Place, tile: Array) -> Array:
            if place not in passages:
                passages[place] = self.inner.begin()
            return self.session.array(passages[place](tile))

        def decode(part: Array) -> Value:
            video = self.tiles.decode(part, one) if self._cuts(part) else one(WHOLE, part)
            return np.clip(video, -1, 1) if self.inner.clamp else video

        return decode

    def frames(self, start: int, count: int) -> int | None:
        """See `Graphs.frames`."""
        return self.inner.frames(start, count)

    def _cuts(self, part: Array) -> bool:
        return self.tiles.needed(part.shape[3], part.shape[4])


WHOLE = Place(0, 0, 0, 0)
