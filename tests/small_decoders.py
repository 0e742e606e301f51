"""Upstream decoders of a few thousand parameters, with weights that hide nothing."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan

WAN_2_1: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 0,
    "temperal_downsample": [True, True],
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
    "scale_factor_spatial": 4,
}
"""Two doublings in time and in space."""

WAN_2_2: dict[str, Any] = WAN_2_1 | {
    "decoder_base_dim": 6,
    "dim_mult": [1, 1],
    "temperal_downsample": [True],
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "is_residual": True,
}
"""One doubling in time and in space, one more in space by the patches."""

WAN_2_2_TWO_STAGES = WAN_2_2 | {
    "dim_mult": [1, 2, 2],
    "temperal_downsample": [False, True],
    "scale_factor_spatial": 8,
}
"""After that, a stage that doubles in space alone."""


def wan(config: dict[str, Any]) -> AutoencoderKLWan:
    """A decoder with seeded weights; the norms' gammas, upstream all ones, are spread out."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        vae = AutoencoderKLWan(**config).eval()
        for name, weight in vae.named_parameters():
            if name.endswith("gamma"):
                weight.uniform_(0.5, 1.5)
    return vae


def latent(*shape: int, seed: int = 2) -> torch.Tensor:
    """A seeded latent of the given shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decode(vae: AutoencoderKLWan, z: torch.Tensor) -> torch.Tensor:
    """Upstream's own decode."""
    with torch.inference_mode():
        video: torch.Tensor = vae.decode(z).sample
    return video
