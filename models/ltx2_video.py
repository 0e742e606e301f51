"""LTX-2 (video part): `AutoencoderKLLTX2Video` of diffusers.

As LTX-Video (see `models.ltx_video`), but

- H and W are padded by reflection (`decoder_spatial_padding_mode`), so they must be at least 2;
- norms are over channels in place (`PerChannelRMSNorm`), and upsampling has a shortcut;
- whether a convolution looks ahead is an argument of `forward`. The published decoder does
  (`decoder_causal` false), so there is no stream form.
"""

from __future__ import annotations

from diffusers import AutoencoderKLLTX2Video

from models.base import Family
from models.ltx_video import LTXVideoDecoder

LTX2_VIDEO = Family(
    name="LTX2-Video",
    upstream=AutoencoderKLLTX2Video,
    wrap=LTXVideoDecoder,
    # The defaults of the class but `decoder_causal`, which is false in the published LTX-2 configs.
    presets={
        "ltx2-video": {
            "latent_channels": 128,
            "block_out_channels": [256, 512, 1024, 2048],
            "decoder_block_out_channels": [256, 512, 1024],
            "layers_per_block": [4, 6, 6, 2, 2],
            "decoder_layers_per_block": [5, 5, 5, 5],
            "spatio_temporal_scaling": [True, True, True, True],
            "decoder_spatio_temporal_scaling": [True, True, True],
            "decoder_inject_noise": [False, False, False, False],
            "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
            "upsample_residual": [True, True, True],
            "upsample_factor": [2, 2, 2],
            "timestep_conditioning": False,
            "patch_size": 4,
            "patch_size_t": 1,
            "resnet_norm_eps": 1e-6,
            "encoder_causal": True,
            "decoder_causal": False,
            "encoder_spatial_padding_mode": "zeros",
            "decoder_spatial_padding_mode": "reflect",
            "spatial_compression_ratio": 32,
            "temporal_compression_ratio": 8,
        }
    },
    last_layer="decoder.conv_out.conv",
)
