"""Wan 2.1, Wan 2.2 TI2V-5B and Qwen-Image: the encoder of `AutoencoderKLWan`.

Upstream (`AutoencoderKLWan._encode`) encodes the first frame alone and then four frames at a time,
and carries what each causal convolution saw last. Frames behind the last four are left out, so T
must be 1 more than a multiple of 4, whatever the encoder's own factor. Over the whole clip at once
every part gives the same values, but for two rules:

- `WanResample` does not halve the first frame in time; its `time_conv` takes frames 0 to 2, 2 to 4
  and so on, with nothing in front, and makes the frames behind the first.
- `AvgDown3D`, the shortcut of Wan 2.2, has a frame of zeros in front, for the first frame is a
  chunk of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AvgDown3D,
    WanAttentionBlock,
    WanResample,
    WanRMS_norm,
    patchify,
)
from torch import nn
from torch.nn import functional

from converter.errors import UserError
from models.base import Encoder, Geometry, Shape, Sizes
from models.parts import ScaledNorm, rebuilt
from models.qwen_image import as_wan
from models.wan import FrameAttention

CHUNK = 4
"""Frames that upstream encodes together behind the first."""


class WanEncoder(Encoder):
    """See `models.base.Encoder`."""

    def __init__(self, vae: Any, geometry: Geometry) -> None:
        super().__init__(vae, geometry)
        if CHUNK % geometry.time:
            raise UserError(
                f"upstream encodes {CHUNK} frames at a time, which this config's factor of "
                f"{geometry.time} in time does not divide: there is no encoder to export."
            )
        self._wan = vae

    def latent_shape(self, video: Shape) -> Shape:
        """As any, but T is 1 more than a multiple of upstream's four frames."""
        if video[2] % CHUNK != 1:
            raise ValueError(
                f"T is {video[2]}, but must be 1 more than a multiple of {CHUNK}, as 1 is"
            )
        return super().latent_shape(video)

    def sizes(self) -> dict[int, Sizes]:
        """As any, but T is 1 more than a multiple of upstream's four frames."""
        return super().sizes() | {2: Sizes("T", CHUNK, 1 - CHUNK)}

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        return _Clip(self._wan, self.geometry.channels, dynamic=dynamic).eval()


class QwenImageEncoder(WanEncoder):
    """The same with Qwen-Image's weights; the reference is Qwen-Image's own `encode`."""

    def __init__(self, vae: Any, geometry: Geometry) -> None:
        super().__init__(vae, geometry)
        self._wan = as_wan(vae)


class _Clip(nn.Module):
    """The steps of `AutoencoderKLWan._encode` without its loop."""

    def __init__(self, vae: Any, channels: int, *, dynamic: bool) -> None:
        super().__init__()
        kinds: dict[type, Callable[[Any], nn.Module]] = {
            WanResample: partial(_Downsample, dynamic=dynamic),
            AvgDown3D: _Shortcut,
            WanAttentionBlock: FrameAttention,
            WanRMS_norm: ScaledNorm,
        }
        self.encoder = rebuilt(vae.encoder, kinds)
        self.quant_conv = vae.quant_conv
        self._patch_size = vae.config.patch_size or 1
        self._channels = channels

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        moments: torch.Tensor = self.quant_conv(self.encoder(patchify(video, self._patch_size)))
        return moments[:, : self._channels]


class _Downsample(nn.Module):
    """`WanResample` (downsample2d and downsample3d): (N, C, T, H, W) -> (N, C, T', H/2, W/2).

    T' is T, or (T + 1) / 2 where there is a `time_conv`.
    """

    def __init__(self, upstream: WanResample, *, dynamic: bool) -> None:
        super().__init__()
        self.resample = upstream.resample
        self.time_conv = upstream.time_conv if upstream.mode == "downsample3d" else None
        self._dynamic = dynamic

    def forward(self, x: torch.Tensor, feat_cache: None = None, feat_idx: Any = None) -> Any:
        """The other arguments are there for callers of upstream's."""
        n, c, t, h, w = x.shape
        y = self.resample(x.transpose(1, 2).reshape(n * t, c, h, w))
        y = y.reshape(n, t, *y.shape[1:]).transpose(1, 2)
        return y if self.time_conv is None else self._halve_time(y, self.time_conv)

    def _halve_time(self, x: torch.Tensor, time_conv: nn.Module) -> torch.Tensor:
        first = x[:, :, :1]
        if self._dynamic:
            # Runtimes refuse a convolution of fewer frames than its kernel has, which T = 1 would
            # be. Two more frames avoid it; what is made of them is dropped.
            later = time_conv(functional.pad(x, (0, 0, 0, 0, 2, 0)))[:, :, 1:]
        elif x.shape[2] == 1:
            return first
        else:
            later = time_conv(x)
        return torch.cat([first, later], dim=2)


class _Shortcut(nn.Module):
    """`AvgDown3D` of a clip with an odd T: means of blocks in T, H and W and of channels."""

    def __init__(self, upstream: AvgDown3D) -> None:
        super().__init__()
        self._time, self._space = upstream.factor_t, upstream.factor_s
        self._channels, self._group = upstream.out_channels, upstream.group_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time, space = self._time, self._space
        if time > 1:
            x = functional.pad(x, (0, 0, 0, 0, time - 1, 0))
        n, c, t, h, w = x.shape
        t, h, w = t // time, h // space, w // space
        blocks = x.reshape(n, c, t, time, h, space, w, space).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return blocks.reshape(n, self._channels, self._group, t, h, w).mean(dim=2)
