"""HunyuanVideo 1.5: the encoder of `AutoencoderKLHunyuanVideo15`.

- Convolutions, norms and attention are the decoder's (see `models.hunyuan_video_15`).
- Downsampling moves T, H and W into channels (`HunyuanVideo15Downsample`). The first frame has none
  to pair with: upstream takes its channels twice, which is what the pair of it and itself gives.
  In the shortcut, where channels are averaged by groups, its groups are half as large.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import (
    HunyuanVideo15AttnBlock,
    HunyuanVideo15Downsample,
    HunyuanVideo15RMS_norm,
)
from torch import nn

from models.base import Encoder
from models.encoders.parts import MeanOf
from models.hunyuan_video_15 import Attention
from models.parts import ScaledNorm, rebuilt


class HunyuanVideo15Encoder(Encoder):
    """See `models.base.Encoder`."""

    def reference(self, video: torch.Tensor) -> torch.Tensor:
        """Upstream's encode; it takes one clip at a time, more do not fit its mask."""
        encode = super().reference
        return torch.cat([encode(clip) for clip in torch.split(video, 1)])

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        kinds = {
            HunyuanVideo15Downsample: _Downsample,
            HunyuanVideo15AttnBlock: Attention,
            HunyuanVideo15RMS_norm: ScaledNorm,
        }
        return MeanOf(rebuilt(self._vae.encoder, kinds), self.geometry.channels).eval()


class _Downsample(nn.Module):
    """`HunyuanVideo15Downsample`: (N, C, T, H, W) -> (N, C', T or (T + 1) / 2, H / 2, W / 2)."""

    def __init__(self, upstream: HunyuanVideo15Downsample) -> None:
        super().__init__()
        self.conv = upstream.conv
        self._halves_time = upstream.add_temporal_downsample
        self._group = upstream.group_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if not self._halves_time:
            return _pack(y, 1) + _group_means(_pack(x, 1), self._group)
        shortcut = _group_means(_pack(_first_twice(x), 2), self._group)[:, :, 1:]
        first = _group_means(_pack(x[:, :, :1], 1), self._group // 2)
        return _pack(_first_twice(y), 2) + torch.cat([first, shortcut], dim=2)


def _first_twice(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :, :1], x], dim=2)


def _pack(x: torch.Tensor, time: int) -> torch.Tensor:
    """(N, C, time * T, 2H, 2W) -> (N, time * 2 * 2 * C, T, H, W)."""
    n, c, t, h, w = x.shape
    t, h, w = t // time, h // 2, w // 2
    parts = x.reshape(n, c, t, time, h, 2, w, 2).permute(0, 3, 5, 7, 1, 2, 4, 6)
    return parts.reshape(n, time * 4 * c, t, h, w)


def _group_means(x: torch.Tensor, size: int) -> torch.Tensor:
    n, c, t, h, w = x.shape
    return x.reshape(n, c // size, size, t, h, w).mean(dim=2)
