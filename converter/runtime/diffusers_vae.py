"""A `Decoder` in the place of a diffusers pipeline's `vae`.

pipe.vae = converter.runtime.DiffusersVAE("wan.json")
"""

from __future__ import annotations

import os
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DecoderOutput

from converter.errors import UserError
from converter.origin import Origin
from converter.providers import AUTO
from converter.runtime.decoder import Decoder
from converter.runtime.summed_tiles import SummedTiles
from converter.runtime.tiles import Axis, Tiles
from converter.runtime.upstream_tiles import step_of, upstream_tiles
from converter.session import SessionSettings

FRAMES_FIRST = "AutoencoderKLAllegro"
"""Its `decode` returns (N, T, 3, H, W)."""
SCALES_IN_BUFFERS = "AutoencoderKLLTX"
"""How the names of the classes begin whose latents' mean and std are buffers, not in the config."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DiffusersVAE(torch.nn.Module):
    """What a pipeline reads of an autoencoder: `decode`, `config`, `dtype`, `device`.

    Attributes of the upstream class that were stored with the graph, such as
    `spatial_compression_ratio`, are attributes here, and so is every entry of the config.

    As an autoencoder of diffusers does, it decodes whole frames until `enable_tiling` is called.
    HunyuanVideo and LTX clips are always decoded as one, as upstream does with
    `use_framewise_decoding` off.

    Args:
        path: As of `Decoder`; exported from diffusers by export-vae, without --denormalize and
            --uint8, which pipelines do themselves.
        provider, settings: As of `Decoder`.

    Raises:
        UserError: as `Decoder`; or the graph is not what a pipeline can use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provider: str = AUTO,
        settings: SessionSettings | None = None,
    ) -> None:
        super().__init__()
        self._opened = path, provider, settings
        self._decoder = Decoder(*self._opened)
        self._origin = origin = _checked(self._decoder.origin, path)
        self.config = FrozenDict(origin.config)
        for name, value in origin.attributes.items():
            setattr(self, name, value)
        # Follows the pipeline from device to device, as parameters would.
        self.register_buffer("_here", torch.empty(0), persistent=False)
        if origin.class_name.startswith(SCALES_IN_BUFFERS) and origin.latents is not None:
            factor = origin.config.get("scaling_factor") or 1.0
            mean, std = torch.tensor(origin.latents.mean), torch.tensor(origin.latents.std)
            self.register_buffer("latents_mean", mean, persistent=False)
            self.register_buffer("latents_std", std * factor, persistent=False)

    def __getattr__(self, name: str) -> Any:
        """Parts of the module, else entries of the config."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            config = self.__dict__.get("config", {})
            if name in config:
                return config[name]
            raise

    @property
    def dtype(self) -> torch.dtype:
        """The type of the latents that the graph takes, whatever the pipeline is cast to."""
        return DTYPES[str(self._decoder.dtype)]

    @property
    def device(self) -> torch.device:
        """Where the pipeline has put it, and expects the video; the graph has a device itself."""
        here: torch.Tensor = self._here
        return here.device

    @torch.no_grad()
    def decode(
        self, z: torch.Tensor, temb: torch.Tensor | None = None, return_dict: bool = True
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """The video (N, 3, T', H', W') of latents (N, C, T, H, W), on their device.

        Allegro's is (N, T', 3, H', W'), as upstream's.

        Args:
            z: Latents as the pipeline hands them to its autoencoder.
            temb: The timestep that some LTX decoders take; in a graph it is fixed at 0, which is
                the pipeline's default.
            return_dict: A `DecoderOutput`, or a tuple of one tensor.

        Raises:
            UserError: the latents do not fit, or the timestep is another.
        """
        if temb is not None and temb.any():
            raise UserError("the graph decodes at timestep 0: give no other decode_timestep.")
        video = self._decoder.decode(z)
        if self._origin.class_name == FRAMES_FIRST:
            video = video.transpose(1, 2)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_sample_stride_height: int | None = None,
        tile_sample_stride_width: int | None = None,
    ) -> None:
        """Decode by tiles, upstream's own unless sizes are given, in pixels.

        Raises:
            UserError: the sizes are not whole latent pixels; upstream has no tiles and no sizes
                were given; Allegro's were; or the graph cannot be tiled.
        """
        given = (
            (tile_sample_min_height, tile_sample_stride_height),
            (tile_sample_min_width, tile_sample_stride_width),
        )
        own = upstream_tiles(self._origin)
        if own is not None and given == ((None, None), (None, None)):
            self._tile(own)
            return
        if isinstance(own, SummedTiles):
            raise UserError(f"the tiles of {self._origin.class_name} have one size: give none.")
        axes = [own.height, own.width] if own is not None else [None, None]
        height, width = (
            self._axis(axis, size, stride) for axis, (size, stride) in zip(axes, given, strict=True)
        )
        self._tile(Tiles(height, width, self._origin.space, step_of(self._origin)))

    def disable_tiling(self) -> None:
        """Decode whole frames."""
        self._decoder = Decoder(*self._opened)
        self.use_tiling = False

    def _tile(self, tiles: Tiles) -> None:
        self._decoder = Decoder(*self._opened, tiles=tiles)
        self.use_tiling = True

    def _axis(self, own: Axis | None, size: int | None, stride: int | None) -> Axis:
        if own is None and (size is None or stride is None):
            raise UserError(f"{self._origin.class_name} has no tiles: give sizes and strides.")
        try:
            return Axis(
                self._latent(size, own.size if own else 0),
                self._latent(stride, own.stride if own else 0),
            )
        except ValueError as error:
            raise UserError(f"{error}, in latent pixels.") from error

    def _latent(self, pixels: int | None, default: int) -> int:
        space = self._origin.space
        if pixels is None:
            return default
        if pixels <= 0 or pixels % space:
            raise UserError(f"{pixels} pixels are no multiple of {space}, a latent pixel.")
        return pixels // space

    def encode(self, *_: Any) -> None:
        """There is no encoder; raises UserError."""
        raise UserError("this is a decoder: a pipeline that encodes needs upstream's autoencoder.")


def _checked(origin: Origin | None, path: str | os.PathLike[str]) -> Origin:
    """The origin of a graph that a pipeline can use; raises `UserError` where it is not."""
    if origin is None:
        raise UserError(f"{path} does not say what it was exported from: export it by export-vae.")
    if origin.graph.denormalize or origin.graph.uint8 or origin.graph.encoder:
        raise UserError(
            f"{path} is not what a pipeline calls: export the decoder without --denormalize and "
            "--uint8."
        )
    return origin
