"""Cosmos 1.0: `AutoencoderKLCosmos` of diffusers.

- Convolutions come in pairs, 1x3x3 and 3x1x1; the first frame is repeated in front
  (`CosmosCausalConv3d`).
- Group norms have one group and are per frame (`CosmosCausalGroupNorm`).
- Doubling in time leaves the first frame alone (`CosmosUpsample3d`): all are doubled and the first
  is dropped, and upstream's exception for T = 1 gives what the rule gives.
- Attention is over the positions of a frame, and then over the earlier frames at a position.
- The last layer makes wavelet coefficients. Upstream undoes the Haar transform by fourteen grouped
  transposed 3-D convolutions a step (`CosmosUnpatcher3d._idwt`). They do not overlap, so a step is
  a product of the eight bands with an 8x8 matrix of signs, moved into 2x2x2 blocks of pixels.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from diffusers import AutoencoderKLCosmos
from diffusers.models.autoencoders.autoencoder_kl_cosmos import (
    CosmosCausalAttention,
    CosmosCausalConv3d,
    CosmosTemporalAttentionProcessor2_0,
    CosmosUnpatcher3d,
    CosmosUpsample3d,
)
from torch import nn
from torch.nn import functional

from models.base import Decoder, Family, Geometry
from models.parts import attend, enlarge, frames_up_to, rebuilt, repeat_axis, untiled


class CosmosDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLCosmos) -> None:
        self._vae = vae.eval()
        config = vae.config
        upsamplers = [part for part in vae.decoder.modules() if isinstance(part, CosmosUpsample3d)]
        self.geometry = Geometry(
            channels=config.latent_channels,
            video_channels=config.out_channels,
            time=config.patch_size * 2 ** sum(part.temporal_upsample for part in upsamplers),
            space=config.patch_size * 2 ** sum(part.spatial_upsample for part in upsamplers),
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode."""
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent).sample
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        kinds = {
            CosmosCausalAttention: Attention,
            CosmosCausalConv3d: CausalConv,
            CosmosUnpatcher3d: _Unpatch,
            CosmosUpsample3d: _Upsample,
        }
        return _Clip(self._vae.post_quant_conv, rebuilt(self._vae.decoder, kinds)).eval()


class _Clip(nn.Module):
    def __init__(self, post_quant_conv: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.post_quant_conv = post_quant_conv
        self.decoder = decoder

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        video: torch.Tensor = self.decoder(self.post_quant_conv(latent))
        return video


class CausalConv(nn.Conv3d):
    """`CosmosCausalConv3d`: the first frame repeated in front, zeros around H and W."""

    def __init__(self, upstream: CosmosCausalConv3d) -> None:
        if upstream.pad_mode != "constant":
            raise ValueError("a convolution padded by zeros is expected")
        space = upstream.spatial_pad[0]
        with torch.device("meta"):
            super().__init__(
                upstream.in_channels,
                upstream.out_channels,
                upstream.kernel_size,
                upstream.stride,
                (0, space, space),
                upstream.dilation,
            )
        self.weight, self.bias = upstream.weight, upstream.bias
        self._pad = (0, 0, 0, 0, upstream.temporal_pad, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        if any(self._pad):
            x = functional.pad(x, self._pad, mode="replicate")
        return super().forward(x)


class Attention(nn.Module):
    """`CosmosCausalAttention` with either of its processors, one head."""

    def __init__(self, upstream: CosmosCausalAttention) -> None:
        super().__init__()
        if upstream.num_attention_heads != 1:
            raise ValueError("an attention of one head is expected")
        self.norm = upstream.norm
        self.to_q = upstream.to_q
        self.to_k = upstream.to_k
        self.to_v = upstream.to_v
        self.to_out = upstream.to_out
        self._over_time = isinstance(upstream.processor, CosmosTemporalAttentionProcessor2_0)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, T, H, W), and the same out; upstream's mask is made anew."""
        n, c, t, h, w = x.shape
        normed = self.norm(x)
        maps = [layer(normed) for layer in (self.to_q, self.to_k, self.to_v)]
        if self._over_time:
            q, k, v = (m.permute(0, 3, 4, 2, 1).reshape(n * h * w, t, c) for m in maps)
            y = attend(q, k, v, frames_up_to(t, 1)).reshape(n, h, w, t, c).permute(0, 4, 3, 1, 2)
        else:
            q, k, v = (m.permute(0, 2, 3, 4, 1).reshape(n * t, h * w, c) for m in maps)
            y = attend(q, k, v).reshape(n, t, h, w, c).permute(0, 4, 1, 2, 3)
        out: torch.Tensor = self.to_out[0](y)
        return out + x


class _Upsample(nn.Module):
    """`CosmosUpsample3d`: T' is T or 2T - 1, H and W double or stay."""

    def __init__(self, upstream: CosmosUpsample3d) -> None:
        super().__init__()
        self.conv1 = upstream.conv1
        self.conv2 = upstream.conv2
        self.conv3 = upstream.conv3
        self._time = upstream.temporal_upsample
        self._space = upstream.spatial_upsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._time:
            x = repeat_axis(x, 2, 2)[:, :, 1:]
            x = self.conv1(x) + x
        if self._space:
            x = enlarge(x, 2)
            x = self.conv2(x) + x
        y: torch.Tensor = self.conv3(x)
        return y


class _Unpatch(nn.Module):
    """`CosmosUnpatcher3d`: (N, C * p^3, T, H, W) -> (N, C, p * T - (p - 1), p * H, p * W)."""

    signs: torch.Tensor

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self._patch = upstream.patch_size
        self._haar = upstream.patch_method == "haar"
        self.register_buffer("signs", haar_signs(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self._patch
        if self._haar:
            for _ in range(int(math.log2(p))):
                x = self._inverse_haar(x)
        else:
            n, c, t, h, w = x.shape
            x = x.reshape(n, c // p**3, p, p, p, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
            x = x.reshape(n, c // p**3, t * p, h * p, w * p)
        return x[:, :, p - 1 :]

    def _inverse_haar(self, x: torch.Tensor) -> torch.Tensor:
        n, bands, t, h, w = x.shape
        c = bands // 8
        pixels = torch.matmul(self.signs, x.reshape(n, 8, c * t * h * w))
        blocks = pixels.reshape(n, 2, 2, 2, c, t, h, w).permute(0, 4, 5, 1, 6, 2, 7, 3)
        return blocks.reshape(n, c, t * 2, h * 2, w * 2)


def haar_signs() -> torch.Tensor:
    """(8, 8): pixel (i, j, k) of a 2x2x2 block is the sum of the bands, with these signs.

    A band is low or high in each of T, H and W; high ones change sign at the second pixel. The
    factors, 1 / sqrt(2) an axis and upstream's sqrt(8), make 1.
    """
    corners = list(itertools.product((0, 1), repeat=3))
    return torch.tensor(
        [
            [
                (-1.0) ** sum(i * high for i, high in zip(pixel, band, strict=True))
                for band in corners
            ]
            for pixel in corners
        ]
    )


COSMOS = Family(
    name="Cosmos",
    upstream=AutoencoderKLCosmos,
    wrap=CosmosDecoder,
    # CV8x8x8-1.0 of scripts/convert_cosmos_to_diffusers.py of diffusers, the defaults of the class.
    presets={
        "cosmos": {
            "latent_channels": 16,
            "encoder_block_out_channels": [128, 256, 512, 512],
            "decode_block_out_channels": [256, 512, 512, 512],
            "attention_resolutions": [32],
            "resolution": 1024,
            "num_layers": 2,
            "patch_size": 4,
            "patch_type": "haar",
            "scaling_factor": 1.0,
            "spatial_compression_ratio": 8,
            "temporal_compression_ratio": 8,
        }
    },
    last_layer="decoder.conv_out.conv_t",
)
