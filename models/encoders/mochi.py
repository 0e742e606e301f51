"""Mochi 1: the encoder of `AutoencoderKLMochi`.

- Convolutions and norms are the decoder's (see `models.mochi`). Those that downsample take blocks
  of pixels that do not overlap, with frames in front that repeat the first.
- The pixels get sines and cosines beside them, of phases up to 256 pi (`FourierFeatures`).
- Attention is over the frames at one position and those before, with several heads, whose queries
  and keys have length 1 (`MochiVaeAttnProcessor2_0`). So the encoder cannot be streamed, and
  upstream refuses to encode by pieces.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from diffusers.models.autoencoders.autoencoder_kl_mochi import (
    FourierFeatures,
    MochiChunkedGroupNorm3D,
)
from torch import nn

from models.base import Encoder
from models.cogvideox import CausalConv
from models.encoders.parts import MeanOf
from models.mochi import FrameNorm
from models.parts import attend, frames_up_to, rebuilt


class MochiEncoder(Encoder):
    """See `models.base.Encoder`."""

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        kinds = {
            CogVideoXCausalConv3d: CausalConv,
            MochiChunkedGroupNorm3D: FrameNorm,
            FourierFeatures: _Fourier,
            Attention: _TimeAttention,
        }
        encoder = _WithoutCache(rebuilt(self._vae.encoder, kinds))
        return MeanOf(encoder, self.geometry.channels).eval()


class _WithoutCache(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        moments: torch.Tensor = self.inner(video)[0]
        return moments


class _Fourier(nn.Module):
    """`FourierFeatures`: (N, C, T, H, W) -> (N, C + 2 * C * F, T, H, W) for F frequencies."""

    frequencies: torch.Tensor

    def __init__(self, upstream: FourierFeatures) -> None:
        super().__init__()
        powers = torch.arange(upstream.start, upstream.stop, upstream.step, dtype=torch.float32)
        frequencies = (torch.pow(2.0, powers) * (2 * torch.pi)).view(1, 1, -1, 1, 1, 1)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phases = (self.frequencies * x.unsqueeze(2)).flatten(1, 2)
        return torch.cat([x, torch.sin(phases), torch.cos(phases)], dim=1)


class _TimeAttention(nn.Module):
    """`Attention` by `MochiVaeAttnProcessor2_0`: (L, T, C) -> (L, T, C), L sequences of frames."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        plain = upstream.rescale_output_factor == 1 and not upstream.residual_connection
        if not plain or not upstream.is_causal:
            raise ValueError("a causal attention without residual connection is expected")
        self.to_q = upstream.to_q
        self.to_k = upstream.to_k
        self.to_v = upstream.to_v
        self.to_out = upstream.to_out
        self._heads = upstream.heads
        self._eps: float = upstream.norm_q.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length, t, c = x.shape
        q, k, v = (
            layer(x).reshape(length, t, self._heads, -1).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        y = attend(self._unit(q), self._unit(k), v, frames_up_to(t, 1))
        out: torch.Tensor = self.to_out[0](y.transpose(1, 2).reshape(length, t, c))
        return out

    def _unit(self, x: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        unit: torch.Tensor = x / length.clamp_min(self._eps)
        return unit
