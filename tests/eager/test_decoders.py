"""Whole video decoders of diffusers, small, before and after the replacement."""

import pytest
import torch

from converter.eager import replace_conv3d

diffusers = pytest.importorskip("diffusers")

# name -> class, configuration, latent
DECODERS = {
    "wan": (
        "AutoencoderKLWan",
        {"base_dim": 16, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        (1, 16, 3, 4, 4),
    ),
    "hunyuan-video": (
        "AutoencoderKLHunyuanVideo",
        {
            "latent_channels": 4,
            "block_out_channels": (16, 16, 16, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        (1, 4, 3, 4, 4),
    ),
    "cogvideox": (
        "AutoencoderKLCogVideoX",
        {
            "latent_channels": 4,
            "block_out_channels": (16, 16, 16, 16),
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        (1, 4, 3, 4, 4),
    ),
    "ltx-video": (
        "AutoencoderKLLTXVideo",
        {
            "latent_channels": 8,
            "block_out_channels": (16, 16, 16, 16),
            "decoder_block_out_channels": (16, 16, 16, 16),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
        },
        (1, 8, 3, 4, 4),
    ),
    "mochi": (
        "AutoencoderKLMochi",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (32, 32, 32, 32),
            "decoder_block_out_channels": (32, 32, 32, 32),
            "layers_per_block": (1, 1, 1, 1, 1),
        },
        (1, 4, 3, 4, 4),
    ),
    "cosmos": (
        "AutoencoderKLCosmos",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (16, 16, 16, 16),
            "decode_block_out_channels": (16, 16, 16, 16),
            "num_layers": 1,
        },
        (1, 4, 3, 4, 4),
    ),
}


@pytest.fixture(params=DECODERS, scope="module")
def decoder(request):
    name, config, latent = DECODERS[request.param]
    torch.manual_seed(0)
    vae = getattr(diffusers, name)(**config).eval()
    return vae, torch.randn(latent)


@torch.no_grad()
def decode(vae, latent):
    return vae.decode(latent, return_dict=False)[0]


@pytest.mark.parametrize("strategy", ["unfold", "taps", "winograd"])
def test_decode_is_equal(decoder, strategy):
    vae, latent = decoder
    expected = decode(vae, latent)
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    replacement = replace_conv3d(vae, strategy)
    result = decode(vae, latent)
    replacement.undo()
    assert replacement.count == sum(isinstance(m, torch.nn.Conv3d) for m in vae.modules())
    assert replacement.refusals == ()
    # 1e-5 of the largest value: fp32 sums in another order, through 20 to 40 layers. With random
    # weights some decoders' values reach 13.
    assert (result - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())
    assert torch.equal(decode(vae, latent), expected)
    assert list(vae.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
