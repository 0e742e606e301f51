"""The tiles that diffusers cuts a decoder's frames into where it is told to tile."""

from __future__ import annotations

from converter.errors import UserError
from converter.origin import Origin
from converter.runtime.summed_tiles import SummedTiles
from converter.runtime.tiles import Axis, Tiles

SIZE, STRIDE = "tile_sample_min_{}", "tile_sample_stride_{}"
LATENT_SIZE, FACTOR = "tile_latent_min_{}", "tile_overlap_factor"
KERNEL, KERNEL_STRIDE = "kernel", "stride"
"""Allegro's tiles along T, H and W, in pixels."""
PATCHES_LAST = "AutoencoderKLWan"
"""Diffusers blends its tiles before it makes pixels of their patches."""
NEVER_TILED = "AutoencoderKLCosmos"
"""It sets sizes of tiles and reads them nowhere."""


def upstream_tiles(origin: Origin) -> Tiles | None:
    """The tiles of `tiled_decode` as its class sets them; None where it has none of this kind.

    Raises:
        UserError: its sizes are no whole latent pixels, so that diffusers' tiles do not meet.
    """
    if KERNEL in origin.attributes:
        return _summed(origin)
    if origin.class_name == NEVER_TILED or SIZE.format("height") not in origin.attributes:
        return None
    height, width = (_axis(origin, side) for side in ("height", "width"))
    return Tiles(height, width, origin.space, step_of(origin))


def _summed(origin: Origin) -> SummedTiles:
    scales = (origin.time, origin.space, origin.space)
    axes = []
    for name, size, stride, scale in zip(
        "THW",
        origin.attributes[KERNEL],
        origin.attributes[KERNEL_STRIDE],
        scales,
        strict=True,
    ):
        if size % scale or stride % scale:
            raise UserError(
                f"the tiles of this {origin.class_name} are {size} every {stride} along {name}, "
                f"which are no multiples of {scale}: decode without tiles."
            )
        axes.append(Axis(size // scale, stride // scale))
    time, height, width = axes
    return SummedTiles(height, width, origin.space, time=time, frames=origin.time)


def step_of(origin: Origin) -> int:
    """See `Tiles.step`."""
    return (origin.class_name == PATCHES_LAST and origin.config.get("patch_size")) or 1


def _axis(origin: Origin, side: str) -> Axis:
    """CogVideoX and HunyuanVideo 1.5 state a share that overlaps, the others a stride in pixels."""
    given = origin.attributes
    pixels = given[SIZE.format(side)]
    factor = given.get(f"{FACTOR}_{side}", given.get(FACTOR))
    if factor is None:
        step = given[STRIDE.format(side)]
        ratio = given.get("spatial_compression_ratio", origin.space)
        size, stride = pixels // ratio, step // ratio
    else:
        size = given[LATENT_SIZE.format(side)]
        stride = int(size * (1 - factor))
        step = pixels - int(pixels * factor)
    if (size * origin.space, stride * origin.space) != (pixels, step):
        raise UserError(
            f"the tiles of this {origin.class_name} are {pixels} pixels every {step} along the "
            f"{side}, which are no multiples of {origin.space}: give a size by --tile."
        )
    return Axis(size, stride)
