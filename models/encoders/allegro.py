"""Allegro: the encoder of `AutoencoderKLAllegro`.

- Upstream encodes in overlapping tiles only (`tiled_encode`, which blends them). The graph is the
  encoder of one tile of any size, as the decoder's is (see `models.allegro`).
- Not causal: T = 4k frames make k latent frames, by convolutions of two frames with stride 2.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from models.allegro import one_tile
from models.base import Encoder
from models.encoders.parts import MeanOf
from models.parts import OneHeadAttention, rebuilt


class AllegroEncoder(Encoder):
    """See `models.base.Encoder`."""

    def reference(self, video: torch.Tensor) -> torch.Tensor:
        """Upstream's tiled encode, the clip being one tile; it takes one clip at a time."""
        n, c, t, h, w = video.shape
        with one_tile(self._vae, (n, c, t, h, w)):
            latents = [self._vae.encode(clip).latent_dist.mode() for clip in torch.split(video, 1)]
        return torch.cat(latents)

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The encoder without tiles."""
        encoder = rebuilt(self._vae.encoder, {Attention: OneHeadAttention})
        return MeanOf(encoder, self.geometry.channels, _ByFrame(self._vae.quant_conv)).eval()


class _ByFrame(nn.Module):
    """A 2-D convolution of each frame of (N, C, T, H, W)."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = x.shape
        y: torch.Tensor = self.conv(x.transpose(1, 2).reshape(n * t, c, h, w))
        return y.reshape(n, t, -1, h, w).transpose(1, 2)
