"""CogVideoX: `AutoencoderKLCogVideoX` of diffusers.

Upstream (`_decode`) decodes two latent frames at a time, three in the first chunk where T is odd,
and carries what each convolution saw last. Over the whole clip at once that is:

- Convolutions: the first frame is repeated in front (`CogVideoXCausalConv3d`, whose
  `CogVideoXSafeConv3d` splits large inputs to save memory).
- Group norms take their statistics over a chunk (`CogVideoXSpatialNorm3D`), not over the clip. All
  frames of a chunk have the same number of pixels, so a chunk's mean is the mean of its frames'
  means: a product with a small frames x frames matrix, which any number of chunks fits.
- Doubling in time leaves the first frame alone where T is odd (`CogVideoXUpsample3D`, and the same
  rule in the norms for the latent that they are conditioned on). That is the same as doubling all
  frames and dropping the first T % 2 of them. So T = 1, 3, 5 make 1, 9, 17 frames of video, and
  T = 2, 4 make 8, 16.

The stream form has chunks of upstream's two latent frames, or a multiple, and takes odd T from 3
on, as upstream's first chunk has one more. For even T all is shifted by a frame.

Tiling in H and W is upstream's only if asked (`use_tiling`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    CogVideoXCausalConv3d,
    CogVideoXSafeConv3d,
    CogVideoXSpatialNorm3D,
)
from diffusers.models.upsampling import CogVideoXUpsample3D
from torch import nn
from torch.nn import functional

from converter.errors import UserError
from models.base import Decoder, Family, Geometry, Stream
from models.parts import enlarge, rebuilt, repeat_axis, untiled
from models.streaming import Chunk, RepeatFirst, stream_of

CHUNK = 2
"""Latent frames that upstream decodes together; the weights were trained for it."""


class CogVideoXDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        if vae.num_latent_frames_batch_size != CHUNK:
            raise ValueError(f"chunks of {CHUNK} latent frames are expected")
        self._vae = vae.eval()
        self.geometry = Geometry(
            channels=vae.config.latent_channels,
            video_channels=vae.config.out_channels,
            time=int(vae.config.temporal_compression_ratio),
            space=2 ** (len(vae.config.block_out_channels) - 1),
            frames="first alone if odd",
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's loop over chunks."""
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent).sample
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        return _Clip(self._vae, CausalConv).eval()

    def stream(self, chunk: int) -> Stream:
        """Upstream's loop for odd T from 3 on, `chunk` latent frames a turn, one more in the first.

        Raises:
            UserError: `chunk` would part latent frames whose norms upstream takes together.
        """
        if chunk % CHUNK:
            raise UserError(
                f"a chunk of {chunk} cannot be: CogVideoX takes the statistics of its norms over "
                f"{CHUNK} latent frames, so take a multiple of {CHUNK}."
            )

        def make() -> Chunk:
            return Chunk(_Clip(self._vae, remembering))

        return stream_of(make, self.geometry.channels, chunk, lead=1, multiple=CHUNK)


@dataclass(frozen=True)
class _Level:
    """What norms need to know at one resolution.

    Attributes:
        latent: (N, C, F, H', W'), enlarged to the resolution.
        chunk_mean: (F, F), row f averages over the chunk of frame f.
        odd: T % 2.
        frames: Frames that one latent frame has become.
    """

    latent: torch.Tensor
    chunk_mean: torch.Tensor
    odd: int
    frames: int


class _Clip(nn.Module):
    """The steps of `AutoencoderKLCogVideoX._decode` without its loop.

    Upstream's residual blocks hand their argument `zq` on to their norms, which makes it the way to
    bring a `_Level` there.
    """

    def __init__(
        self,
        vae: AutoencoderKLCogVideoX,
        conv: Callable[[CogVideoXCausalConv3d], nn.Module],
    ) -> None:
        super().__init__()
        post_quant_conv = vae.post_quant_conv
        self.post_quant_conv = None if post_quant_conv is None else plain_conv(post_quant_conv)
        kinds = {
            CogVideoXSpatialNorm3D: _ChunkNorm,
            CogVideoXCausalConv3d: conv,
            CogVideoXSafeConv3d: plain_conv,
        }
        self.decoder: Any = rebuilt(vae.decoder, kinds)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        if self.post_quant_conv is not None:
            latent = self.post_quant_conv(latent)
        odd = latent.shape[2] % 2
        decoder = self.decoder
        level = _Level(latent, mean_over_chunks(latent.shape[2], odd, CHUNK), odd, 1)
        x = decoder.conv_in(latent)[0]
        for resnet in decoder.mid_block.resnets:
            x = resnet(x, None, level)[0]
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = resnet(x, None, level)[0]
            for upsampler in block.upsamplers or ():
                level = _finer(level, double_time=upsampler.compress_time)
                x = _upsample(upsampler, x, odd)
        x = decoder.conv_act(decoder.norm_out(x, level)[0])
        video: torch.Tensor = decoder.conv_out(x)[0]
        return video


def mean_over_chunks(frames: int, odd: int, length: int) -> torch.Tensor:
    """Row f of (frames, frames) averages over f's chunk; the first has `odd` frames more."""
    chunk = (torch.arange(frames) - odd).clamp_min(0) // length
    same = (chunk.unsqueeze(1) == chunk.unsqueeze(0)).float()
    return same / same.sum(dim=1, keepdim=True)


def _finer(level: _Level, *, double_time: bool) -> _Level:
    latent = enlarge(_double_time(level.latent, level.odd) if double_time else level.latent, 2)
    if not double_time:
        return _Level(latent, level.chunk_mean, level.odd, level.frames)
    frames = level.frames * 2
    chunk_mean = mean_over_chunks(latent.shape[2], level.odd, CHUNK * frames)
    return _Level(latent, chunk_mean, level.odd, frames)


def _double_time(x: torch.Tensor, odd: int) -> torch.Tensor:
    return repeat_axis(x, 2, 2)[:, :, odd:]


def _upsample(upstream: CogVideoXUpsample3D, x: torch.Tensor, odd: int) -> torch.Tensor:
    """`CogVideoXUpsample3D`: H and W double, T where upstream says so; a 2-D convolution."""
    doubled = enlarge(_double_time(x, odd) if upstream.compress_time else x, 2)
    n, c, t, h, w = doubled.shape
    frames = upstream.conv(doubled.transpose(1, 2).reshape(n * t, c, h, w))
    y: torch.Tensor = frames.reshape(n, t, frames.shape[1], h, w).transpose(1, 2)
    return y


class _ChunkNorm(nn.Module):
    """`CogVideoXSpatialNorm3D`; takes and returns what upstream's callers pass and expect."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.norm_layer = upstream.norm_layer
        self.conv_y = plain_conv(upstream.conv_y.conv)
        self.conv_b = plain_conv(upstream.conv_b.conv)

    def forward(
        self, x: torch.Tensor, level: _Level, conv_cache: None = None
    ) -> tuple[torch.Tensor, None]:
        normed = group_norm_by_chunk(x, self.norm_layer, level.chunk_mean)
        return normed * self.conv_y(level.latent) + self.conv_b(level.latent), None


def group_norm_by_chunk(
    x: torch.Tensor, norm: nn.GroupNorm, chunk_mean: torch.Tensor
) -> torch.Tensor:
    """`norm` of each chunk of (N, C, T, H, W), which `chunk_mean` (T, T) averages over."""
    centred = x - _chunk_means(x, norm.num_groups, chunk_mean)[..., None, None]
    variance = _chunk_means(centred.square(), norm.num_groups, chunk_mean)
    scale = torch.rsqrt(variance + norm.eps) * norm.weight[:, None]
    return centred * scale[..., None, None] + norm.bias[:, None, None, None]


def _chunk_means(x: torch.Tensor, groups: int, chunk_mean: torch.Tensor) -> torch.Tensor:
    """(N, C, T, H, W) -> (N, C, T), the mean of the group and chunk that each belongs to."""
    n, c, t, _, _ = x.shape
    frame = x.mean(dim=(3, 4)).reshape(n, groups, c // groups, t).mean(dim=2)
    chunk = torch.matmul(frame, chunk_mean.transpose(0, 1))
    return repeat_axis(chunk, 1, c // groups)


class CausalConv(nn.Module):
    """`CogVideoXCausalConv3d` of a whole clip: the first frame is repeated in front.

    Its `pad_mode` "replicate" repeats the edge in H and W, too; zeros are there otherwise. Upstream
    returns a cache besides the result, and so must this.
    """

    def __init__(self, upstream: CogVideoXCausalConv3d) -> None:
        super().__init__()
        self.conv = plain_conv(upstream.conv)
        in_time = (0, 0, 0, 0, upstream.time_pad, 0)
        everywhere = upstream.pad_mode == "replicate"
        self._pad = tuple(upstream.time_causal_padding) if everywhere else in_time

    def forward(self, x: torch.Tensor, conv_cache: None = None) -> tuple[torch.Tensor, None]:
        """(N, C, T, H, W) -> (N, O, T, H, W), and no cache."""
        if any(self._pad):
            x = functional.pad(x, self._pad, mode="replicate")
        return self.conv(x), None


def remembering(upstream: CogVideoXCausalConv3d) -> nn.Module:
    """`CogVideoXCausalConv3d` of a chunk of a clip."""
    if not upstream.time_pad:
        return CausalConv(upstream)
    edges = upstream.time_causal_padding[:4] if upstream.pad_mode == "replicate" else ()
    return RepeatFirst(plain_conv(upstream.conv), upstream.time_pad, tuple(edges))


def plain_conv(upstream: CogVideoXSafeConv3d) -> nn.Conv3d:
    """The same convolution without the splitting of large inputs, which compares sizes."""
    with torch.device("meta"):
        conv = nn.Conv3d(
            upstream.in_channels,
            upstream.out_channels,
            upstream.kernel_size,
            upstream.stride,
            upstream.padding,
            upstream.dilation,
        )
    conv.weight, conv.bias = upstream.weight, upstream.bias
    return conv


COGVIDEOX = Family(
    name="CogVideoX",
    upstream=AutoencoderKLCogVideoX,
    wrap=CogVideoXDecoder,
    # The defaults of the class. A quotation of THUDM/CogVideoX-2b's config.json has the same
    # channels, compression and factor (no layers were quoted); CogVideoX-5b-I2V's factor is 0.7.
    presets={
        "cogvideox": {
            "latent_channels": 16,
            "block_out_channels": [128, 256, 256, 512],
            "layers_per_block": 3,
            "norm_num_groups": 32,
            "temporal_compression_ratio": 4,
            "scaling_factor": 1.15258426,
        }
    },
    last_layer="decoder.conv_out.conv",
)
