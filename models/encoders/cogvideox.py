"""CogVideoX: the encoder of `AutoencoderKLCogVideoX`.

Upstream (`_encode`) encodes eight frames at a time, and takes the odd one of a video of 8k + 1
frames into the first chunk. It expects no other lengths. Over the whole clip at once that is:

- Convolutions as in the decoder (see `models.cogvideox`), and group norms over a chunk, too.
- Halving in time leaves the first frame alone where T is odd (`CogVideoXDownsample3D`). That is the
  mean of pairs where the first frame is there twice.

The dynamic form is for videos of 8k + 1 frames, as the pipelines make; a static one may have 8k.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    CogVideoXCausalConv3d,
    CogVideoXSafeConv3d,
)
from diffusers.models.downsampling import CogVideoXDownsample3D
from torch import nn
from torch.nn import functional

from models.base import Encoder, Geometry, Sizes
from models.cogvideox import CausalConv, group_norm_by_chunk, mean_over_chunks, plain_conv
from models.encoders.parts import MeanOf, mean_of_pairs
from models.parts import rebuilt

CHUNK = 8
"""Frames that upstream encodes together; the weights were trained for it."""


class CogVideoXEncoder(Encoder):
    """See `models.base.Encoder`."""

    def __init__(self, vae: Any, geometry: Geometry) -> None:
        super().__init__(vae, geometry)
        if vae.num_sample_frames_batch_size != CHUNK:
            raise ValueError(f"chunks of {CHUNK} frames are expected")

    def sizes(self) -> dict[int, Sizes]:
        """As any, but T is 1 more than a multiple of upstream's eight frames."""
        return super().sizes() | {2: Sizes("T", CHUNK, 1 - CHUNK)}

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        quant_conv = self._vae.quant_conv
        return MeanOf(
            _Chunked(self._vae.encoder),
            self.geometry.channels,
            None if quant_conv is None else plain_conv(quant_conv),
        ).eval()


class _Chunked(nn.Module):
    """`CogVideoXEncoder3D` of all chunks.

    Upstream's residual blocks hand their argument `zq` on to their norms, which makes it the way to
    bring there how frames are averaged.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        kinds = {
            nn.GroupNorm: _ChunkNorm,
            CogVideoXCausalConv3d: CausalConv,
            CogVideoXSafeConv3d: plain_conv,
        }
        self.inner: Any = rebuilt(encoder, kinds)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        encoder, frames = self.inner, video.shape[2]
        odd, chunk = frames % 2, CHUNK
        mean = mean_over_chunks(frames, odd, chunk)
        x = encoder.conv_in(video)[0]
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = resnet(x, None, mean)[0]
            for downsampler in block.downsamplers or ():
                if downsampler.compress_time:
                    x, chunk = mean_of_pairs(torch.cat([x[:, :, :odd], x], dim=2)), chunk // 2
                    mean = mean_over_chunks(x.shape[2], odd, chunk)
                x = _halve_space(downsampler, x)
        for resnet in encoder.mid_block.resnets:
            x = resnet(x, None, mean)[0]
        x = encoder.conv_act(encoder.norm_out(x, mean)[0])
        moments: torch.Tensor = encoder.conv_out(x)[0]
        return moments


def _halve_space(upstream: CogVideoXDownsample3D, x: torch.Tensor) -> torch.Tensor:
    """The 2-D convolution of `CogVideoXDownsample3D`, frame by frame."""
    n, c, t, h, w = x.shape
    frames = functional.pad(x.transpose(1, 2).reshape(n * t, c, h, w), (0, 1, 0, 1))
    y: torch.Tensor = upstream.conv(frames)
    return y.reshape(n, t, *y.shape[1:]).transpose(1, 2)


class _ChunkNorm(nn.Module):
    """`GroupNorm` of each chunk; takes and returns what upstream's callers pass and expect."""

    def __init__(self, upstream: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = upstream

    def forward(
        self, x: torch.Tensor, chunk_mean: torch.Tensor, conv_cache: None = None
    ) -> tuple[torch.Tensor, None]:
        return group_norm_by_chunk(x, self.norm, chunk_mean), None
