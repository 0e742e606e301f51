"""Which encoder goes with which class of diffusers."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from converter.errors import UserError
from models.base import Encoder, Geometry
from models.encoders.allegro import AllegroEncoder
from models.encoders.cogvideox import CogVideoXEncoder
from models.encoders.cosmos import CosmosEncoder
from models.encoders.generic import GenericEncoder
from models.encoders.hunyuan_video import HunyuanVideoEncoder
from models.encoders.hunyuan_video_15 import HunyuanVideo15Encoder
from models.encoders.ltx_video import LTXVideoEncoder
from models.encoders.mochi import MochiEncoder
from models.encoders.wan import QwenImageEncoder, WanEncoder

ENCODERS: dict[type[Any], type[Encoder]] = {
    diffusers.AutoencoderKLWan: WanEncoder,
    diffusers.AutoencoderKLQwenImage: QwenImageEncoder,
    diffusers.AutoencoderKLHunyuanVideo: HunyuanVideoEncoder,
    diffusers.AutoencoderKLHunyuanVideo15: HunyuanVideo15Encoder,
    diffusers.AutoencoderKLCogVideoX: CogVideoXEncoder,
    diffusers.AutoencoderKLLTXVideo: LTXVideoEncoder,
    diffusers.AutoencoderKLLTX2Video: LTXVideoEncoder,
    diffusers.AutoencoderKLMochi: MochiEncoder,
    diffusers.AutoencoderKLCosmos: CosmosEncoder,
    diffusers.AutoencoderKLAllegro: AllegroEncoder,
}

PROBE = (3, 2, 2)
"""T, H and W of the latent that tells whether the encoder inverts the decoder."""


def encoder_of(vae: Any, geometry: Geometry) -> Encoder:
    """The encoder of an upstream model whose decoder has the given geometry, known or generic.

    Raises:
        UserError: there is none; it does not work with this config; or it is not the inverse of
            the decoder in size.
    """
    if not callable(getattr(vae, "encode", None)):
        raise UserError(f"{type(vae).__name__} has no encode: leave out --encoder.")
    make = ENCODERS.get(type(vae), GenericEncoder)
    _refuse_unfit(make, vae, geometry)
    return make(vae, geometry)


def _refuse_unfit(make: type[Encoder], vae: Any, geometry: Geometry) -> None:
    """Encode by a model of the same config without weights, which costs neither memory nor time."""
    latent = (1, geometry.channels, *PROBE)
    video = geometry.video_shape(latent)
    name = type(vae).__name__
    with torch.device("meta"), torch.inference_mode():
        twin = make(type(vae).from_config(vae.config).to("meta"), geometry)
        try:
            made = tuple(twin.reference(torch.zeros(video)).shape)
        except Exception as error:  # upstream raises whatever a wrong size leads to
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{name} does not encode with this config: {reason}.") from error
    if made != latent:
        raise UserError(
            f"{name} encodes {video} to {made} with this config, but decodes {latent} to that: "
            "such a pair is not known here."
        )
