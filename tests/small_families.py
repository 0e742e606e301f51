"""One small configuration of every family, of a few thousand parameters."""

from __future__ import annotations

from typing import Any

from tests.small_decoders import WAN_2_1

GROUPS = 2

QWEN_IMAGE: dict[str, Any] = {
    name: value for name, value in WAN_2_1.items() if name != "scale_factor_spatial"
}

HUNYUAN_VIDEO: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": GROUPS,
}

HUNYUAN_VIDEO_15: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 4,
}

COGVIDEOX: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8],
    "down_block_types": ["CogVideoXDownBlock3D"] * 3,
    "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": GROUPS,
}

LTX_VIDEO: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8],
    "decoder_block_out_channels": [4, 8, 8],
    "down_block_types": ["LTXVideoDownBlock3D"] * 3,
    "layers_per_block": [1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "spatio_temporal_scaling": [True, True, False],
    "decoder_spatio_temporal_scaling": [True, True, False],
    "decoder_inject_noise": [False] * 4,
    "downsample_type": ["conv"] * 3,
    "upsample_residual": [False] * 3,
    "upsample_factor": [1] * 3,
    "patch_size": 2,
}

LTX_VIDEO_TIMESTEP = LTX_VIDEO | {
    "decoder_block_out_channels": [8, 16, 32],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "timestep_conditioning": True,
    "upsample_residual": [True] * 3,
    "upsample_factor": [2] * 3,
}
"""As LTX-Video 0.9.1 and later; upstream takes a timestep only where blocks keep their channels."""

LTX2_VIDEO: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8],
    "decoder_block_out_channels": [8, 16],
    "down_block_types": ["LTX2VideoDownBlock3D"] * 3,
    "layers_per_block": [1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1],
    "spatio_temporal_scaling": [True, True, True],
    "decoder_spatio_temporal_scaling": [True, True],
    "decoder_inject_noise": [False] * 3,
    "downsample_type": ["spatial", "temporal", "spatiotemporal"],
    "upsample_residual": [True, True],
    "upsample_factor": [2, 2],
    "upsample_type": ["spatiotemporal", "spatiotemporal"],
    "decoder_causal": False,
    "patch_size": 2,
}

MOCHI: dict[str, Any] = {
    "latent_channels": 4,
    "encoder_block_out_channels": [32, 32],
    "decoder_block_out_channels": [32, 32],
    "layers_per_block": [1, 1, 1],
    "temporal_expansions": [3],
    "spatial_expansions": [2],
    "add_attention_block": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [0.5, 1.5, 0.9, 1.1],
}
"""Upstream's norms have 32 groups, whatever the channels."""

COSMOS: dict[str, Any] = {
    "latent_channels": 4,
    "encoder_block_out_channels": [4, 8, 8, 8],
    "decode_block_out_channels": [8, 8, 8, 8],
    "attention_resolutions": [16],
    "resolution": 64,
    "num_layers": 1,
    "patch_size": 4,
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}

ALLEGRO: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": GROUPS,
}

SMALL: dict[str, dict[str, Any]] = {
    "Wan": WAN_2_1,
    "Qwen-Image": QWEN_IMAGE,
    "HunyuanVideo": HUNYUAN_VIDEO,
    "HunyuanVideo 1.5": HUNYUAN_VIDEO_15,
    "CogVideoX": COGVIDEOX,
    "LTX-Video": LTX_VIDEO,
    "LTX2-Video": LTX2_VIDEO,
    "Mochi": MOCHI,
    "Cosmos": COSMOS,
    "Allegro": ALLEGRO,
}
"""By the name of the family."""

WITH_ENCODER: dict[str, dict[str, Any]] = SMALL | {
    "Wan": WAN_2_1 | {"num_res_blocks": 1},
    "Qwen-Image": QWEN_IMAGE | {"num_res_blocks": 1},
}
"""The same with an encoder that works: Wan's needs a residual block where channels change."""
