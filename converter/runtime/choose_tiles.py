"""Tiles as a user asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from rich.filesize import decimal

from converter import manifest
from converter.errors import UserError
from converter.manifest import NEXT, StreamSpec
from converter.memory import available_bytes
from converter.memory_need import OVERHEAD, run_bytes
from converter.origin import Origin, of_metadata
from converter.runtime.summed_tiles import SummedTiles
from converter.runtime.tiles import Axis, Tiles
from converter.runtime.upstream_tiles import step_of, upstream_tiles

AUTO, NONE, UPSTREAM = "auto", "none", "upstream"
SMALLEST = 8
"""Latent pixels along H and W; smaller tiles are nearly all seam."""
WEIGHTS_TIMES = 4
"""Measured, libraries included: weights are held as read, laid out for kernels, transformed."""


@dataclass(frozen=True)
class Source:
    """What a model says of itself before it is opened.

    Attributes:
        graph: The graph that does most of the work.
        spec: Of a stream.
        weights: Bytes of the files.
    """

    graph: Path
    origin: Origin | None
    spec: StreamSpec | None
    weights: int

    @property
    def space(self) -> int | None:
        """H' = H * space; None where it is not known."""
        known = self.spec or self.origin
        return None if known is None else known.space

    @property
    def any_size(self) -> bool:
        """Whether latents may have any H and W, as tiles have."""
        if self.spec is not None:
            return self.spec.latent[3:] == (None, None)
        shape = self._input().type.tensor_type.shape.dim
        return not any(dim.HasField("dim_value") for dim in shape[3:])

    def need(self, shape: tuple[int, ...], tiles: Tiles | None = None) -> int | None:
        """Bytes that decoding a latent (N, C, T, H, W) takes at most; None if not known.

        Args:
            shape: Of the latent.
            tiles: How it is cut.
        """
        height, width = shape[3:]
        cut = tiles if tiles and tiles.needed(height, width) else None
        h = min(height, cut.height.size) if cut else height
        w = min(width, cut.width.size) if cut else width
        if self.spec is None:
            run = run_bytes(self.graph, {self._input().name: (*shape[:3], h, w)})
            kept = 0
        else:
            shapes = self.spec.inputs(h, w)
            made = {cache.output: shapes[cache.input] for cache in self.spec.caches}
            run = run_bytes(self.graph, shapes | made)
            kept = 0 if cut is None else sum(self._caches(*size) for size in _sizes(cut, shape))
        if run is None:
            return None
        return WEIGHTS_TIMES * self.weights + round(OVERHEAD * run) + kept

    def _input(self) -> onnx.ValueInfoProto:
        latent: onnx.ValueInfoProto = onnx.load(self.graph, load_external_data=False).graph.input[0]
        return latent

    def _caches(self, height: int, width: int) -> int:
        assert self.spec is not None
        shapes = self.spec.inputs(height, width)
        values = 0
        for cache in self.spec.caches:
            n, c, t, h, w = shapes[cache.input]
            values += n * c * t * h * w
        return 4 * values


def look(path: Path) -> Source:
    """What is known of a model; raises `UserError` if it is missing or not in order."""
    if manifest.is_manifest(path):
        read = manifest.read(path)
        weights = read.path(manifest.DATA).stat().st_size
        return Source(read.path(NEXT), read.spec.origin, read.spec, weights)
    if not path.is_file():
        raise UserError(f"the decoder {path} does not exist or is not a file.")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and the file system's
        raise UserError(f"the graph {path} cannot be read: {error}.") from error
    beside = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path, *(path.parent / name for name in beside)]
    weights = sum(file.stat().st_size for file in files if file.is_file())
    return Source(path, of_metadata(model.metadata_props, str(path)), None, weights)


def chosen_tiles(source: Source, asked: str, overlap: int | None) -> Tiles | None:
    """The tiles of `none`, `upstream`, or a size in pixels of the video such as `256x256`.

    Args:
        source: Whose frames are cut.
        asked: Which tiles.
        overlap: Pixels that tiles of a given size have in common; by default a quarter of the
            shorter side.

    Raises:
        UserError: they do not fit the decoder, or it does not say what they need.
    """
    if overlap is not None and asked in (AUTO, NONE, UPSTREAM):
        raise UserError("--overlap is for --tile HxW; give both or neither.")
    if asked == NONE:
        return None
    origin, space = source.origin, source.space
    if asked == UPSTREAM:
        if origin is None:
            raise UserError("this decoder does not say what it was made of; give --tile HxW.")
        found = upstream_tiles(origin)
        if found is None:
            raise UserError(f"diffusers' {origin.class_name} has no such tiles; give --tile HxW.")
        return found
    sizes = asked.lower().split("x")
    if len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
        raise UserError(f"--tile {asked} is none of auto, none, upstream, and a size as 256x256.")
    if space is None:
        raise UserError("this decoder does not say what it scales H and W by: it has no tiles.")
    height, width = (int(size) for size in sizes)
    common = min(height, width) // 4 // space * space if overlap is None else overlap
    if any(size % space for size in (height, width, common)):
        raise UserError(f"tiles and their overlap must be multiples of {space} pixels.")
    if not 0 <= common < min(height, width):
        raise UserError(f"tiles of {asked} pixels cannot overlap by {common}.")
    axes = [Axis(size // space, (size - common) // space) for size in (height, width)]
    return Tiles(axes[0], axes[1], space, step_of(origin) if origin else 1)


def fitting_tiles(
    source: Source, shape: tuple[int, ...], processes: int = 1
) -> tuple[Tiles, str] | None:
    """Tiles that fit, and why, if a latent is estimated not to fit in memory whole.

    Upstream's; or, where they do not fit either, halves of them, with the same share of overlap,
    down to the smallest. Those of Allegro, which upstream never decodes whole, wherever they cover
    the latent. None also where there are no such tiles, or the estimate cannot be made.

    Args:
        source: What decodes.
        shape: Of the latent.
        processes: How many decode at once, and share the memory.
    """
    tiles = upstream_tiles(source.origin) if source.origin else None
    if tiles is None or not tiles.needed(*shape[3:]) or not source.any_size:
        return None
    if isinstance(tiles, SummedTiles) and not tiles.misfit(shape):
        return tiles, "decoding in tiles, as diffusers always does (--tile none decodes whole)"
    need, free = source.need(shape), available_bytes()
    if need is None or free is None:
        return None
    free //= processes
    if need <= free:
        return None
    candidates = list(_ever_smaller(tiles))
    fit = [tried for tried in candidates if (source.need(shape, tried) or 0) <= free]
    tiles = fit[0] if fit else candidates[-1]
    height, width = (axis.size * tiles.space for axis in (tiles.height, tiles.width))
    return tiles, (
        f"whole frames would take about {decimal(need)}, and {decimal(free)} are free: decoding in "
        f"tiles of {height}x{width} (--tile none decodes whole)"
    )


def _ever_smaller(tiles: Tiles) -> Iterator[Tiles]:
    """Some tiles, and halves of them down to `SMALLEST` latent pixels; Allegro's stay one size."""
    while True:
        yield tiles
        height, width = (
            Axis(axis.size // 2, max(1, axis.size // 2 * axis.stride // axis.size))
            for axis in (tiles.height, tiles.width)
        )
        if isinstance(tiles, SummedTiles) or min(height.size, width.size) < SMALLEST:
            return
        tiles = replace(tiles, height=height, width=width)


def _sizes(tiles: Tiles, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """H and W of every tile of a latent."""
    height, width = shape[3:]
    return [
        (min(tiles.height.size, height - p.top), min(tiles.width.size, width - p.left))
        for p in tiles.places(height, width)
    ]
