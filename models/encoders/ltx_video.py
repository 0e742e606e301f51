"""LTX-Video and LTX-2: the encoders of `AutoencoderKLLTXVideo` and `AutoencoderKLLTX2Video`.

- The whole clip at once in upstream, too; causal as published (`encoder_causal`). Convolutions and
  norms are the decoder's (see `models.ltx_video`).
- The first layer moves 4x4 patches of pixels into channels. Downsampling is a convolution of stride
  2, or moves T, H and W into channels with the first frame there twice (`LTXVideoDownsampler3d`).
- The last layer makes one channel more than the latent has, the variance of all. The mean needs
  none of what upstream repeats of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import LTXVideoCausalConv3d
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoCausalConv3d
from diffusers.models.normalization import RMSNorm
from torch import nn

from models.base import Encoder, Geometry
from models.encoders.parts import MeanOf
from models.ltx_video import LastAxisNorm, padded
from models.parts import rebuilt


class LTXVideoEncoder(Encoder):
    """See `models.base.Encoder`; serves LTX-Video and LTX-2."""

    def __init__(self, vae: Any, geometry: Geometry) -> None:
        reflects = vae.config.get("encoder_spatial_padding_mode") == "reflect"
        super().__init__(vae, replace(geometry, least=2 if reflects else 1))

    def clip(self, *, dynamic: bool) -> nn.Module:
        """Upstream's encoder; its norms over channels stay in (N, C, T, H, W)."""
        causal = self._vae.config.encoder_causal
        kinds = {
            RMSNorm: LastAxisNorm,
            LTXVideoCausalConv3d: lambda part: padded(part, causal=causal),
            LTX2VideoCausalConv3d: lambda part: padded(part, causal=causal),
        }
        encoder = _Encoder(rebuilt(self._vae.encoder, kinds))
        return MeanOf(encoder, self.geometry.channels).eval()


class _Encoder(nn.Module):
    """`LTXVideoEncoder3d` and `LTX2VideoEncoder3d` up to their last convolution."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.inner = upstream
        self._ltx2 = not isinstance(upstream.norm_out, LastAxisNorm)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        encoder: Any = self.inner
        x = encoder.conv_in(_patches(video, encoder.patch_size_t, encoder.patch_size))
        for block in encoder.down_blocks:
            x = block(x)
        x = encoder.mid_block(x)
        x = encoder.norm_out(x if self._ltx2 else x.movedim(1, -1))
        x = encoder.conv_act(x if self._ltx2 else x.movedim(-1, 1))
        y: torch.Tensor = encoder.conv_out(x)
        return y


def _patches(x: torch.Tensor, time: int, space: int) -> torch.Tensor:
    """(N, C, time * T, p * H, p * W) -> (N, C * time * p * p, T, H, W), W before H in channels."""
    n, c, t, h, w = x.shape
    t, h, w = t // time, h // space, w // space
    parts = x.reshape(n, c, t, time, h, space, w, space).permute(0, 1, 3, 7, 5, 2, 4, 6)
    return parts.reshape(n, c * time * space**2, t, h, w)
