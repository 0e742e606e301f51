"""Qwen-Image: `AutoencoderKLQwenImage` of diffusers, the VAE of Wan 2.1 with other weights.

Upstream's file repeats Wan's under other class names: the same layers, the same names of weights,
the same loop over latent frames (`_decode`). So the weights are put into a Wan decoder, and its
forms are used; the reference is Qwen-Image's own `decode`. An image is a clip of T = 1.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan

from models.base import Family
from models.parts import untiled
from models.wan import WanDecoder

SHARED_CONFIG = (
    "base_dim",
    "z_dim",
    "dim_mult",
    "num_res_blocks",
    "attn_scales",
    "temperal_downsample",
    "latents_mean",
    "latents_std",
)


def as_wan(vae: AutoencoderKLQwenImage) -> AutoencoderKLWan:
    """A Wan autoencoder with the same weights."""
    config = {name: vae.config[name] for name in SHARED_CONFIG}
    channels = vae.config.input_channels
    with torch.device("meta"):
        wan = AutoencoderKLWan(**config, in_channels=channels, out_channels=channels)
    wan.load_state_dict(vae.state_dict(), assign=True)  # the same tensors, not copies
    return wan


class QwenImageDecoder(WanDecoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__(as_wan(vae))
        self._upstream = vae.eval()

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's loop over the latent frames."""
        with untiled(self._upstream):
            video: torch.Tensor = self._upstream.decode(latent).sample
        return video


QWEN_IMAGE = Family(
    name="Qwen-Image",
    upstream=AutoencoderKLQwenImage,
    wrap=QwenImageDecoder,
    # The defaults of the class; copies of the checkpoint's config.json in other projects state the
    # same, and give it latents_mean and latents_std, which are the class's, too.
    presets={
        "qwen-image": {
            "base_dim": 96,
            "z_dim": 16,
            "dim_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "attn_scales": [],
            "temperal_downsample": [False, True, True],
        }
    },
    last_layer="decoder.conv_out",
)
