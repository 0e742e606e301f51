"""Cosmos 1.0: the encoder of `AutoencoderKLCosmos`. It makes latents, no distribution.

- Convolutions, norms and attention are the decoder's (see `models.cosmos`).
- The first layer makes wavelet coefficients of blocks of pixels, the first frame being there four
  times. Upstream runs the Haar transform by fourteen grouped 3-D convolutions of stride 2 a step
  (`CosmosPatchEmbed3d._dwt`). Blocks do not overlap, so a step is a product of the 2x2x2 pixels
  with the decoder's 8x8 matrix of signs; upstream's padding is for sizes that do not divide.
- Downsampling adds a convolution and a mean of pixels, in space and then in time, the first frame
  being there twice (`CosmosDownsample3d`).
"""

from __future__ import annotations

import math

import torch
from diffusers.models.autoencoders.autoencoder_kl_cosmos import (
    CosmosCausalAttention,
    CosmosCausalConv3d,
    CosmosDownsample3d,
    CosmosPatchEmbed3d,
)
from torch import nn
from torch.nn import functional

from models.base import Encoder
from models.cosmos import Attention, CausalConv, haar_signs
from models.encoders.parts import MeanOf, mean_of_pairs
from models.parts import rebuilt


class CosmosEncoder(Encoder):
    """See `models.base.Encoder`."""

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        kinds = {
            CosmosCausalAttention: Attention,
            CosmosCausalConv3d: CausalConv,
            CosmosDownsample3d: _Downsample,
            CosmosPatchEmbed3d: _Patch,
        }
        encoder = rebuilt(self._vae.encoder, kinds)
        quant_conv = CausalConv(self._vae.quant_conv)
        return MeanOf(encoder, self.geometry.channels, quant_conv).eval()


def _repeat_first(x: torch.Tensor, times: int) -> torch.Tensor:
    """The first frame is there `times` times more."""
    return functional.pad(x, (0, 0, 0, 0, times, 0), mode="replicate")


class _Patch(nn.Module):
    """`CosmosPatchEmbed3d`: (N, C, p * T - (p - 1), p * H, p * W) -> (N, C * p^3, T, H, W)."""

    signs: torch.Tensor

    def __init__(self, upstream: CosmosPatchEmbed3d) -> None:
        super().__init__()
        self._patch = upstream.patch_size
        self._haar = upstream.patch_method == "haar"
        self.register_buffer("signs", haar_signs() / 8, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self._patch
        x = _repeat_first(x, p - 1)
        if self._haar:
            for _ in range(int(math.log2(p))):
                x = self._step(x)
            return x
        n, c, t, h, w = x.shape
        t, h, w = t // p, h // p, w // p
        parts = x.reshape(n, c, t, p, h, p, w, p).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return parts.reshape(n, c * p**3, t, h, w)

    def _step(self, x: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = x.shape
        t, h, w = t // 2, h // 2, w // 2
        pixels = x.reshape(n, c, t, 2, h, 2, w, 2).permute(0, 3, 5, 7, 1, 2, 4, 6)
        bands = torch.matmul(self.signs, pixels.reshape(n, 8, c * t * h * w))
        return bands.reshape(n, 8 * c, t, h, w)


class _Downsample(nn.Module):
    """`CosmosDownsample3d`: T' is T or (T + 1) / 2, H and W are halved or stay."""

    def __init__(self, upstream: CosmosDownsample3d) -> None:
        super().__init__()
        self.conv1 = upstream.conv1
        self.conv2 = upstream.conv2
        self.conv3 = upstream.conv3
        self._space = upstream.spatial_downsample
        self._time = upstream.temporal_downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._space:
            x = self.conv1(functional.pad(x, (0, 1, 0, 1, 0, 0))) + _mean_of_squares(x)
        if self._time:
            x = _repeat_first(x, 1)
            x = self.conv2(x) + mean_of_pairs(x)
        y: torch.Tensor = self.conv3(x)
        return y


def _mean_of_squares(x: torch.Tensor) -> torch.Tensor:
    """(N, C, T, 2H, 2W) -> (N, C, T, H, W), the means of 2x2 pixels, by frames as images."""
    n, c, t, h, w = x.shape
    frames = functional.avg_pool2d(x.transpose(1, 2).reshape(n * t, c, h, w), 2)
    return frames.reshape(n, t, c, h // 2, w // 2).transpose(1, 2)
