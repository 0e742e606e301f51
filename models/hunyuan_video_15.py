"""HunyuanVideo 1.5: `AutoencoderKLHunyuanVideo15` of diffusers.

- Convolutions are padded by repeating the edge, in T in front only (`HunyuanVideo15CausalConv3d`).
- Upsampling moves channels into T, H and W (`HunyuanVideo15Upsample`). The first frame does not
  double: its channels are read as (H, W, 2C) and the second half is dropped, where later frames
  read (T, H, W, C). So the first frame is rearranged apart from the others.
- The middle attends over a frame and those before it; upstream fills the mask row by row in Python,
  which would grow with T*H*W.
- `decode` goes frame by frame nowhere, and tiles H and W only if asked (`use_tiling`).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo15
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import (
    HunyuanVideo15AttnBlock,
    HunyuanVideo15RMS_norm,
    HunyuanVideo15Upsample,
)
from torch import nn

from models.base import Decoder, Family, Geometry
from models.parts import ScaledNorm, attend, frames_up_to, rebuilt, repeat_axis, untiled


class HunyuanVideo15Decoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo15) -> None:
        self._vae = vae.eval()
        self.geometry = Geometry(
            channels=vae.config.latent_channels,
            video_channels=vae.config.out_channels,
            time=vae.config.temporal_compression_ratio,
            space=vae.config.spatial_compression_ratio,
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode; it takes one clip at a time, more do not fit its mask."""
        with untiled(self._vae):
            return torch.cat([self._vae.decode(clip).sample for clip in torch.split(latent, 1)])

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        kinds = {
            HunyuanVideo15Upsample: lambda part: _Upsample(part, dynamic=dynamic),
            HunyuanVideo15AttnBlock: Attention,
            HunyuanVideo15RMS_norm: ScaledNorm,
        }
        return _Clip(rebuilt(self._vae.decoder, kinds)).eval()


class _Clip(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        video: torch.Tensor = self.decoder(latent)
        return video


class Attention(nn.Module):
    """`HunyuanVideo15AttnBlock`."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.norm = ScaledNorm(upstream.norm)
        self.to_q = upstream.to_q
        self.to_k = upstream.to_k
        self.to_v = upstream.to_v
        self.proj_out = upstream.proj_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W), and the same out."""
        _, _, t, h, w = x.shape
        normed = self.norm(x)
        q, k, v = (
            layer(normed).flatten(2).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        y = attend(q, k, v, frames_up_to(t, h * w)).transpose(1, 2).reshape(x.shape)
        projected: torch.Tensor = self.proj_out(y)
        return projected + x


class _Upsample(nn.Module):
    """`HunyuanVideo15Upsample`: (N, C, T, H, W) -> (N, C', T or 2T - 1, 2H, 2W)."""

    def __init__(self, upstream: HunyuanVideo15Upsample, *, dynamic: bool) -> None:
        super().__init__()
        self.conv = upstream.conv
        self._doubles_time = upstream.add_temporal_upsample
        self._repeats = upstream.repeats
        self._dynamic = dynamic

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if not self._doubles_time:
            return _unpack(y, 1) + _unpack(repeat_axis(x, 1, self._repeats), 1)
        first = _unpack(y[:, :, :1], 1)
        first = first[:, : first.shape[1] // 2]
        first = first + repeat_axis(_unpack(x[:, :, :1], 1), 1, self._repeats // 2)
        if not self._dynamic and x.shape[2] == 1:
            return first
        # The two frames made of the first are dropped after rather than before, so that no tensor
        # in between is empty where T = 1.
        later = _unpack(y, 2) + repeat_axis(_unpack(x, 2), 1, self._repeats)
        return torch.cat([first, later[:, :, 2:]], dim=2)


def _unpack(x: torch.Tensor, time: int) -> torch.Tensor:
    """(N, time * 2 * 2 * C, T, H, W) -> (N, C, time * T, 2H, 2W)."""
    n, packed, t, h, w = x.shape
    c = packed // (4 * time)
    parts = x.reshape(n, time, 2, 2, c, t, h, w).permute(0, 4, 5, 1, 6, 2, 7, 3)
    return parts.reshape(n, c, t * time, h * 2, w * 2)


HUNYUAN_VIDEO_15 = Family(
    name="HunyuanVideo 1.5",
    upstream=AutoencoderKLHunyuanVideo15,
    wrap=HunyuanVideo15Decoder,
    # The defaults of the class, with which scripts/convert_hunyuan_video1_5_to_diffusers.py of
    # diffusers writes the published checkpoints.
    presets={
        "hunyuan-video-1.5": {
            "latent_channels": 32,
            "block_out_channels": [128, 256, 512, 1024, 1024],
            "layers_per_block": 2,
            "spatial_compression_ratio": 16,
            "temporal_compression_ratio": 4,
            "downsample_match_channel": True,
            "upsample_match_channel": True,
            "scaling_factor": 1.03682,
        }
    },
    last_layer="decoder.conv_out.conv",
)
