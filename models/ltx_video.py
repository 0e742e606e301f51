"""LTX-Video: `AutoencoderKLLTXVideo` of diffusers.

- The whole clip at once in upstream, too. The published decoder is not causal
  (`decoder_causal` false: frames are repeated at both ends), so there is no stream form; upstream's
  `use_framewise_decoding`, off by default, is tiling in time.
- Upsampling moves channels into T, H and W and drops the first frame (`LTXVideoUpsampler3d`), so a
  first latent frame stays one frame; the last layer moves channels into 4x4 patches of pixels.
- From 0.9.1 on the decoder also takes a timestep (`timestep_conditioning`). It is folded in as the
  pipeline's default, `decode_timestep` 0. A decoder that injects noise (`decoder_inject_noise`) is
  no function of the latent and is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_ltx import LTXVideoCausalConv3d
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoCausalConv3d
from diffusers.models.normalization import RMSNorm
from torch import nn

from converter.errors import UserError
from models.base import Decoder, Family, Geometry
from models.parts import EdgePadded, rebuilt, untiled

DECODE_TIMESTEP = 0.0
"""What the pipelines pass to a decoder that takes a timestep, unless told otherwise."""


class LTXVideoDecoder(Decoder):
    """See `models.base.Decoder`; serves LTX-Video and LTX-2."""

    def __init__(self, vae: Any) -> None:
        config = vae.config
        noisy = config.decoder_inject_noise
        if noisy if isinstance(noisy, bool) else any(noisy):
            raise UserError(
                "this decoder injects noise (decoder_inject_noise in its config.json), so it has "
                "no single right output to export."
            )
        self._vae = vae.eval()
        doublings = config.decoder_spatio_temporal_scaling
        count = len(vae.decoder.up_blocks) if doublings is True else sum(doublings or ())
        self.geometry = Geometry(
            channels=config.latent_channels,
            video_channels=config.out_channels,
            time=config.patch_size_t * 2**count,
            space=config.patch_size * 2**count,
            least=2 if config.get("decoder_spatial_padding_mode") == "reflect" else 1,
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode."""
        temb = None
        if self._vae.config.timestep_conditioning:
            temb = torch.full((latent.shape[0],), DECODE_TIMESTEP, dtype=latent.dtype)
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent, temb).sample
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """Upstream's decoder; its norms over channels stay in (N, C, T, H, W)."""
        causal = self._vae.config.decoder_causal
        kinds = {
            RMSNorm: LastAxisNorm,
            LTXVideoCausalConv3d: lambda part: padded(part, causal=causal),
            LTX2VideoCausalConv3d: lambda part: padded(part, causal=causal),
        }
        decoder = rebuilt(self._vae.decoder, kinds)
        return _Clip(decoder, timestep=self._vae.config.timestep_conditioning).eval()


class _Clip(nn.Module):
    def __init__(self, decoder: nn.Module, *, timestep: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self._timestep = timestep

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        temb = torch.full((latent.shape[0],), DECODE_TIMESTEP) if self._timestep else None
        video: torch.Tensor = self.decoder(latent, temb)
        return video


def padded(upstream: Any, *, causal: bool) -> EdgePadded:
    """`LTXVideoCausalConv3d`, which repeats the first frame, and the last if not causal."""
    history = upstream.kernel_size[0] - 1
    before, after = (history, 0) if causal else (history // 2, history // 2)
    return EdgePadded(upstream.conv, before, after)


class LastAxisNorm(nn.Module):
    """`RMSNorm` without weight. It moves channels, which the caller moved last, back to the front.

    The two moves cancel in the graph; upstream's would stay, around every norm.
    """

    def __init__(self, upstream: RMSNorm) -> None:
        super().__init__()
        if upstream.weight is not None:
            raise ValueError("a norm without weight is expected")
        self._eps = upstream.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of (N, T, H, W, C)."""
        y = x.movedim(-1, 1)
        y = y * torch.rsqrt(y.square().mean(dim=1, keepdim=True) + self._eps)
        return y.movedim(1, -1)


LTX_VIDEO = Family(
    name="LTX-Video",
    upstream=AutoencoderKLLTXVideo,
    wrap=LTXVideoDecoder,
    # vae/config.json of LTX-Video 0.9.0, the defaults of the class. From 0.9.1 on it is another.
    presets={
        "ltx-video": {
            "latent_channels": 128,
            "block_out_channels": [128, 256, 512, 512],
            "decoder_block_out_channels": [128, 256, 512, 512],
            "layers_per_block": [4, 3, 3, 3, 4],
            "decoder_layers_per_block": [4, 3, 3, 3, 4],
            "spatio_temporal_scaling": [True, True, True, False],
            "decoder_spatio_temporal_scaling": [True, True, True, False],
            "decoder_inject_noise": [False, False, False, False, False],
            "upsample_residual": [False, False, False, False],
            "upsample_factor": [1, 1, 1, 1],
            "timestep_conditioning": False,
            "patch_size": 4,
            "patch_size_t": 1,
            "resnet_norm_eps": 1e-6,
            "scaling_factor": 1.0,
            "encoder_causal": True,
            "decoder_causal": False,
        }
    },
    last_layer="decoder.conv_out.conv",
)
