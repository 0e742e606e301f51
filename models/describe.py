"""What an upstream autoencoder says of itself, for `converter.origin`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from converter.origin import LatentScale, Origin
from models.base import Geometry

PREFIXES = ("tile_", "use_", "num_")
NAMES = (
    "spatial_compression_ratio",
    "temporal_compression_ratio",
    "drop_last_temporal_frames",
    "kernel",
    "stride",
)
"""Beside the prefixes: Allegro calls its tiles `kernel` and `stride`."""


def describe(vae: Any, geometry: Geometry) -> Origin:
    """The class, config and settings of an instance, without private entries such as paths."""
    return Origin(
        class_name=type(vae).__name__,
        diffusers=diffusers.__version__,
        config={name: _plain(v) for name, v in vae.config.items() if not name.startswith("_")},
        attributes={
            name: _plain(value)
            for name, value in sorted(vars(vae).items())
            if (name.startswith(PREFIXES) or name in NAMES)
            and isinstance(value, bool | int | float | tuple | list)
        },
        channels=geometry.channels,
        video_channels=geometry.video_channels,
        time=geometry.time,
        space=geometry.space,
        frames=geometry.frames,
        least=geometry.least,
        latents=latent_scale(vae, geometry.channels),
    )


def latent_scale(vae: Any, channels: int) -> LatentScale | None:
    """What upstream's pipelines do to a latent before they call `decode`.

    Wan, Qwen-Image: z * std + mean of the config. LTX: z * std / scaling_factor + mean, of buffers.
    Mochi: the same, of the config. HunyuanVideo, CogVideoX, Allegro: z / scaling_factor. Cosmos:
    z * std + mean by channel and frame; its pipeline also divides by the scheduler's sigma_data,
    which is no property of the autoencoder. None where it leaves latents as they are.
    """
    config: Mapping[str, Any] = vae.config
    factor = config.get("scaling_factor") or 1.0
    shift = config.get("shift_factor") or 0.0
    mean, std = (_numbers(vae, name) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        if factor == 1.0 and shift == 0.0:
            return None
        return LatentScale([shift] * channels, [1.0 / factor] * channels)
    if len(mean) % channels or len(mean) != len(std):
        return None  # Defaults of the class, which are for another number of channels.
    if len(mean) != channels:  # by channel and frame
        mean, std = (torch.tensor(v).reshape(channels, -1).tolist() for v in (mean, std))
        return LatentScale(mean, std)
    return LatentScale(mean, [value / factor for value in std])


def _numbers(vae: Any, name: str) -> list[float] | None:
    """Of the config, or else of a buffer of that name."""
    value = vae.config.get(name)
    if value is None:
        value = dict(vae.named_buffers(recurse=False)).get(name)
    if value is None or (isinstance(value, torch.Tensor) and value.is_meta):
        return None
    numbers: list[float] = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    return numbers


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
