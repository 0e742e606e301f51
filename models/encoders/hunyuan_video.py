"""HunyuanVideo: the encoder of `AutoencoderKLHunyuanVideo`.

- Convolutions, norms and attention are the decoder's (see `models.hunyuan_video`). Those of a
  stride of 2 are padded alike, two frames in front that repeat the first, so the first frame stays
  alone.
- Upstream splits videos into overlapping pieces and blends the latents only if asked
  (`use_framewise_encoding`, `use_tiling`).
"""

from __future__ import annotations

from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoMidBlock3D
from torch import nn

from models.base import Encoder
from models.encoders.parts import MeanOf
from models.hunyuan_video import Middle
from models.parts import rebuilt


class HunyuanVideoEncoder(Encoder):
    """See `models.base.Encoder`."""

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once; one form for any T."""
        encoder = rebuilt(self._vae.encoder, {HunyuanVideoMidBlock3D: Middle})
        return MeanOf(encoder, self.geometry.channels, self._vae.quant_conv).eval()
