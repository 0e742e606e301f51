"""Any other video autoencoder of diffusers: its own `encode`, traced as it is, for one size."""

from __future__ import annotations

import torch
from torch import nn

from converter.errors import UserError
from models.base import Encoder
from models.parts import untiled


class GenericEncoder(Encoder):
    """See `models.base.Encoder`."""

    def reference(self, video: torch.Tensor) -> torch.Tensor:
        """Upstream's encode: the mode of its distribution, or its latent where it makes no such."""
        with untiled(self._vae):
            made = self._vae.encode(video, return_dict=False)[0]
        latent: torch.Tensor = made if isinstance(made, torch.Tensor) else made.mode()
        return latent

    def clip(self, *, dynamic: bool) -> nn.Module:
        """Upstream's encode.

        Raises:
            UserError: with `dynamic`, which a class that nobody has looked at does not promise.
        """
        if dynamic:
            name = type(self._vae).__name__
            raise UserError(f"{name} is exported as it is, for one size: leave out --dynamic.")
        return _Clip(self).eval()


class _Clip(nn.Module):
    def __init__(self, encoder: GenericEncoder) -> None:
        super().__init__()
        self.vae = encoder._vae
        self._encode = encoder.reference

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self._encode(video)
