"""Mochi 1: `AutoencoderKLMochi` of diffusers.

- Convolutions are padded by repeating the edge, in T in front only (`CogVideoXCausalConv3d` with
  `pad_mode` "replicate", whose `CogVideoXSafeConv3d` splits large inputs to save memory).
- Group norms are per frame (`MochiChunkedGroupNorm3D`); upstream takes eight frames at a time.
- Upsampling is a linear layer that moves channels into T, H and W; `_decode` drops the first five
  of six frames at the end (`drop_last_temporal_frames`), so the first latent frame makes one.
- The decoder has no attention (the encoder does). Framewise decoding is off by default, and would
  pad differently. The stream form carries what each convolution saw last, which upstream does not
  for this padding, and so equals the decode of the whole clip.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKLMochi
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from diffusers.models.autoencoders.autoencoder_kl_mochi import MochiChunkedGroupNorm3D
from torch import nn

from models.base import Decoder, Family, Geometry, Stream
from models.cogvideox import CausalConv, remembering
from models.parts import rebuilt, untiled
from models.streaming import Chunk, stream_of


class MochiDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLMochi) -> None:
        self._vae = vae.eval()
        self.geometry = Geometry(
            channels=vae.config.latent_channels,
            video_channels=vae.config.out_channels,
            time=math.prod(vae.config.temporal_expansions),
            space=math.prod(vae.config.spatial_expansions),
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode."""
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent).sample
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        kinds = {CogVideoXCausalConv3d: CausalConv, MochiChunkedGroupNorm3D: FrameNorm}
        return _Clip(rebuilt(self._vae.decoder, kinds), self.geometry.time).eval()

    def stream(self, chunk: int) -> Stream:
        """Upstream's decoder, whose first frames are dropped where a clip begins."""
        kinds = {CogVideoXCausalConv3d: remembering, MochiChunkedGroupNorm3D: FrameNorm}
        drop = self.geometry.time - 1

        def make() -> Chunk:
            return Chunk(_Clip(rebuilt(self._vae.decoder, kinds), 1), drop)

        return stream_of(make, self.geometry.channels, chunk)


class _Clip(nn.Module):
    def __init__(self, decoder: nn.Module, time: int) -> None:
        super().__init__()
        self.decoder = decoder
        self._time = time

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        video: torch.Tensor = self.decoder(latent)[0]
        return video[:, :, self._time - 1 :]


class FrameNorm(nn.Module):
    """`MochiChunkedGroupNorm3D` over all frames at once."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.norm_layer = upstream.norm_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W), and the same out."""
        n, c, t, h, w = x.shape
        frames: torch.Tensor = self.norm_layer(x.transpose(1, 2).reshape(n * t, c, h, w))
        return frames.reshape(n, t, c, h, w).transpose(1, 2)


MOCHI = Family(
    name="Mochi",
    upstream=AutoencoderKLMochi,
    wrap=MochiDecoder,
    # vae/config.json of genmo/mochi-1-preview, the defaults of the class (its scale, too).
    presets={
        "mochi": {
            "in_channels": 15,
            "latent_channels": 12,
            "encoder_block_out_channels": [64, 128, 256, 384],
            "decoder_block_out_channels": [128, 256, 512, 768],
            "layers_per_block": [3, 3, 4, 6, 3],
            "temporal_expansions": [1, 2, 3],
            "spatial_expansions": [2, 2, 2],
            "add_attention_block": [False, True, True, True, True],
            "scaling_factor": 1.0,
        }
    },
    last_layer="decoder.proj_out",
)
