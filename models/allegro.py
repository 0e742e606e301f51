"""Allegro: `AutoencoderKLAllegro` of diffusers.

- Upstream decodes in overlapping tiles only (`_decode` raises without `use_tiling`, and
  `tiled_decode` blends them). The graph is the decoder of one tile of any size; cutting and
  blending are left to whoever runs it. The reference is upstream's `tiled_decode` with a tile as
  large as the clip.
- Not causal: time is padded at both ends (`AllegroTemporalConvLayer`), and every latent frame makes
  four frames, T' = 4T. Group norms over the clip leave no stream form.
- Two thirds of the layers are 2-D, frame by frame; the others are 3x1x1 and 3x3x3.
- Upstream's `decode` returns (N, T, 3, H, W); the graph returns (N, 3, T, H, W), as all do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKLAllegro
from diffusers.models.attention_processor import Attention
from diffusers.models.upsampling import Upsample2D
from torch import nn

from models.base import Decoder, Family, Geometry, Shape
from models.parts import OneHeadAttention, rebuilt


class AllegroDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLAllegro) -> None:
        self._vae = vae.eval()
        self.geometry = Geometry(
            channels=vae.config.latent_channels,
            video_channels=vae.config.out_channels,
            time=2 ** sum(vae.config.temporal_upsample_blocks),
            space=2 ** (len(vae.config.block_out_channels) - 1),
            frames="every",
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's tiled decode, the clip being one tile; it takes one clip at a time."""
        n, c, t, h, w = latent.shape
        shape = self.geometry.video_shape((n, c, t, h, w))
        with one_tile(self._vae, shape):
            videos = [self._vae.decode(clip).sample for clip in torch.split(latent, 1)]
        return torch.cat(videos).transpose(1, 2)

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The decoder without tiles."""
        decoder = rebuilt(self._vae.decoder, {Upsample2D: _upsample, Attention: OneHeadAttention})
        return _Clip(self._vae.post_quant_conv, decoder).eval()


@contextmanager
def one_tile(vae: Any, video: Shape) -> Iterator[None]:
    """Upstream's tiles as large as a video, one clip at a time; they are put back."""
    before = vae.use_tiling, vae.use_slicing, vae.kernel, vae.stride
    vae.use_tiling, vae.use_slicing = True, False
    vae.kernel = vae.stride = video[2:]
    try:
        yield
    finally:
        vae.use_tiling, vae.use_slicing, vae.kernel, vae.stride = before


class _Clip(nn.Module):
    def __init__(self, post_quant_conv: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.post_quant_conv = post_quant_conv
        self.decoder = decoder

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = latent.shape
        frames = self.post_quant_conv(latent.transpose(1, 2).reshape(n * t, c, h, w))
        video: torch.Tensor = self.decoder(frames.reshape(n, t, c, h, w).transpose(1, 2))
        return video


def _upsample(upstream: Upsample2D) -> nn.Module:
    """`Upsample2D`, which compares the number of elements with limits of old kernels."""
    if upstream.norm is not None or upstream.use_conv_transpose or not upstream.use_conv:
        raise ValueError("an upsampler of a nearest doubling and a convolution is expected")
    return nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), upstream.conv)


ALLEGRO = Family(
    name="Allegro",
    upstream=AutoencoderKLAllegro,
    wrap=AllegroDecoder,
    # The defaults of the class; not compared with a published config.json.
    presets={
        "allegro": {
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
            "temporal_downsample_blocks": [True, True, False, False],
            "temporal_upsample_blocks": [False, True, True, False],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "temporal_compression_ratio": 4,
            "sample_size": 320,
            "scaling_factor": 0.13,
        }
    },
    last_layer="decoder.conv_out",
)
