"""Any other video autoencoder of diffusers: its own `decode`, traced as it is.

Nothing is known of such a class but that it has a `decode`. How sizes map is found by decoding two
small latents. Loops over frames are unrolled by the trace, so the graph may grow with the clip, and
is right for the sizes that it was made with.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import nn

from converter.errors import UserError
from models.base import Decoder, Family, FrameRule, Geometry
from models.parts import untiled

CHANNEL_KEYS = ("latent_channels", "z_dim", "latent_dim", "z_channels")
"""What configs call the latent's channels."""

PROBE = (4, 6)
"""H and W of the latents that are decoded to learn how sizes map."""


class GenericDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae.eval()
        self._name = type(vae).__name__
        channels = next((vae.config[k] for k in CHANNEL_KEYS if k in vae.config), None)
        if not isinstance(channels, int):
            raise UserError(f"the config of {self._name} does not name the channels of latents.")
        self.geometry = self._probe(channels)

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode of the clip as one piece."""
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent, return_dict=False)[0]
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """Upstream's decode.

        Raises:
            UserError: with `dynamic`, which a class that nobody has looked at does not promise.
        """
        if dynamic:
            raise UserError(
                f"{self._name} is exported as it is, for one size: leave out --dynamic."
            )
        return _Clip(self).eval()

    def _probe(self, channels: int) -> Geometry:
        height, width = PROBE
        shapes = []
        for frames in (2, 3):
            latent = torch.zeros(1, channels, frames, height, width, dtype=self._vae.dtype)
            try:
                with torch.inference_mode():
                    shapes.append(tuple(self.reference(latent).shape))
            except Exception as error:  # upstream raises whatever a shape it does not take leads to
                reason = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"{self._name} does not decode a latent {tuple(latent.shape)}, so it is no "
                    f"video decoder that can be exported: {reason}."
                ) from error
        if any(len(shape) != 5 for shape in shapes):
            raise UserError(f"{self._name} decodes to {shapes[0]}, not to a video of rank 5.")
        (_, video_channels, two, high, wide), (_, _, three, _, _) = shapes
        time = three - two
        rules: dict[int, FrameRule] = {time + 1: "first alone", 2 * time: "every"}
        space, rest = divmod(high, height)
        if two not in rules or rest or wide != width * space or time < 1:
            raise UserError(
                f"{self._name} makes {two} and {three} frames of {high}x{wide} of 2 and 3 latent "
                f"frames of {height}x{width}; this rule is not known here."
            )
        return Geometry(channels, video_channels, time, space, rules[two])


class _Clip(nn.Module):
    def __init__(self, decoder: GenericDecoder) -> None:
        super().__init__()
        self.vae = decoder._vae
        self._decode = decoder.reference

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self._decode(latent)


def generic_family(class_name: str) -> Family | None:
    """The family of one class of diffusers; None where it has no such autoencoder."""
    upstream = getattr(diffusers, class_name, None)
    if not isinstance(upstream, type) or not issubclass(upstream, diffusers.ModelMixin):
        return None
    if not callable(getattr(upstream, "decode", None)):
        return None
    return Family(
        name=class_name, upstream=upstream, wrap=GenericDecoder, presets={}, last_layer=None
    )
