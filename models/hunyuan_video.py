"""HunyuanVideo: `AutoencoderKLHunyuanVideo` of diffusers.

- Convolutions are padded by repeating the edge in T (in front only), H and W
  (`HunyuanVideoCausalConv3d`).
- Doubling in time leaves the first frame alone (`HunyuanVideoUpsampleCausal3D` splits it off).
  That is the same as doubling all frames and dropping the first, which takes T = 1, too.
- The middle attends over all positions of a frame and of the frames before it; its mask of
  (T*H*W)^2 entries is upstream's (`prepare_causal_attention_mask`).
- Group norms take their statistics over the whole clip, so there is no stream form. Upstream splits
  latents of more than four frames into overlapping pieces by default (`use_framewise_decoding`) and
  blends them; that is tiling, which the exported graph leaves to whoever runs it.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
    HunyuanVideoMidBlock3D,
    HunyuanVideoUpsampleCausal3D,
)
from torch import nn

from models.base import Decoder, Family, Geometry
from models.parts import (
    OneHeadAttention,
    enlarge,
    frames_up_to,
    rebuilt,
    repeat_axis,
    untiled,
)


class HunyuanVideoDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        self._vae = vae.eval()
        self.geometry = Geometry(
            channels=vae.config.latent_channels,
            video_channels=vae.config.out_channels,
            time=vae.config.temporal_compression_ratio,
            space=vae.config.spatial_compression_ratio,
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode of the clip as one piece."""
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent).sample
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once; one form for any T."""
        kinds = {HunyuanVideoMidBlock3D: Middle, HunyuanVideoUpsampleCausal3D: _Upsample}
        return _Clip(self._vae.post_quant_conv, rebuilt(self._vae.decoder, kinds)).eval()


class _Clip(nn.Module):
    def __init__(self, post_quant_conv: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.post_quant_conv = post_quant_conv
        self.decoder = decoder

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        video: torch.Tensor = self.decoder(self.post_quant_conv(latent))
        return video


class Middle(nn.Module):
    """`HunyuanVideoMidBlock3D`, with its mask made by comparing frame numbers."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.resnets = upstream.resnets
        self.attentions = nn.ModuleList(
            nn.Identity() if attention is None else OneHeadAttention(attention)
            for attention in upstream.attentions
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W), and the same out."""
        _, _, t, h, w = x.shape
        x = self.resnets[0](x)
        for attention, resnet in zip(self.attentions, self.resnets[1:], strict=True):
            if isinstance(attention, OneHeadAttention):
                x = attention(x, frames_up_to(t, h * w))
            x = resnet(x)
        return x


class _Upsample(nn.Module):
    """`HunyuanVideoUpsampleCausal3D`: T' is T or 2T - 1, H and W double or stay."""

    def __init__(self, upstream: HunyuanVideoUpsampleCausal3D) -> None:
        super().__init__()
        self.conv = upstream.conv
        self._time, self._space, width = (int(factor) for factor in upstream.upsample_factor)
        if width != self._space:
            raise ValueError("H and W are expected to grow alike")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        later = repeat_axis(x, 2, self._time)[:, :, self._time - 1 :]
        y: torch.Tensor = self.conv(enlarge(later, self._space))
        return y


HUNYUAN_VIDEO = Family(
    name="HunyuanVideo",
    upstream=AutoencoderKLHunyuanVideo,
    wrap=HunyuanVideoDecoder,
    # The defaults of the class; copies of the checkpoint's config.json in other projects' tests
    # state the same channels, layers, groups, factor and compression.
    presets={
        "hunyuan-video": {
            "latent_channels": 16,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "scaling_factor": 0.476986,
            "spatial_compression_ratio": 8,
            "temporal_compression_ratio": 4,
            "mid_block_add_attention": True,
        }
    },
    last_layer="decoder.conv_out.conv",
)
