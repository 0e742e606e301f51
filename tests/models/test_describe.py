"""What upstream's classes say of themselves; the formulas of the pipelines are written out here."""

import pytest
import torch
from diffusers import (
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
)

from models.base import Geometry
from models.describe import describe
from tests.small_decoders import WAN_2_1
from tests.small_families import ALLEGRO, COGVIDEOX, COSMOS, LTX_VIDEO, MOCHI

GEOMETRY = Geometry(channels=4, video_channels=3, time=4, space=8)
MEAN, STD = [0.5, -1.0, 2.0, 0.0], [2.0, 3.0, 0.25, 1.0]


def of(cls, config):
    return describe(cls(**config), GEOMETRY)


def test_the_class_its_config_and_what_it_sets_besides():
    made = of(AutoencoderKLWan, WAN_2_1)
    assert made.class_name == "AutoencoderKLWan"
    assert made.config["dim_mult"] == [1, 2, 2]
    assert made.config["out_channels"] == 3  # a default
    assert not [name for name in made.config if name.startswith("_")]
    assert made.attributes["tile_sample_min_height"] == 256
    assert made.attributes["tile_sample_stride_width"] == 192
    assert made.attributes["use_tiling"] is False
    assert made.attributes["spatial_compression_ratio"] == 4
    assert (made.channels, made.time, made.space, made.frames) == (4, 4, 8, "first alone")


def test_allegros_tiles_are_its_kernel_and_stride():
    attributes = of(AutoencoderKLAllegro, ALLEGRO | {"sample_size": 320}).attributes
    assert attributes["kernel"] == [24, 320, 320]
    assert attributes["stride"] == [16, 200, 240]


def test_a_private_path_is_left_out(tmp_path):
    AutoencoderKLWan(**WAN_2_1).save_pretrained(tmp_path)
    made = describe(AutoencoderKLWan.from_pretrained(tmp_path), GEOMETRY)
    assert str(tmp_path) not in str(made.to_json())


def with_scale(cls, config):
    return of(cls, config | {"latents_mean": MEAN, "latents_std": STD}).latents


def test_the_latents_of_wan_are_scaled_by_its_config():
    made = with_scale(AutoencoderKLWan, WAN_2_1)
    assert (made.mean, made.std) == (MEAN, STD)


def test_the_latents_of_mochi_are_divided_by_a_factor_too():
    made = with_scale(AutoencoderKLMochi, MOCHI | {"scaling_factor": 0.5})
    assert (made.mean, made.std) == (MEAN, [2 * value for value in STD])


def test_the_latents_of_ltx_are_scaled_by_buffers():
    vae = AutoencoderKLLTXVideo(**LTX_VIDEO, scaling_factor=4.0)
    vae.latents_mean.copy_(torch.tensor(MEAN))
    vae.latents_std.copy_(torch.tensor(STD))
    made = describe(vae, GEOMETRY).latents
    assert (made.mean, made.std) == (MEAN, [value / 4 for value in STD])


def test_the_latents_of_cogvideox_are_divided_by_a_factor():
    made = of(AutoencoderKLCogVideoX, COGVIDEOX | {"scaling_factor": 0.5}).latents
    assert (made.mean, made.std) == ([0.0] * 4, [2.0] * 4)
    assert of(AutoencoderKLCogVideoX, COGVIDEOX | {"scaling_factor": 1.0}).latents is None


@pytest.mark.parametrize("frames", [1, 3])
def test_the_latents_of_cosmos_are_scaled_by_channel_and_frame(frames):
    numbers = [float(n) for n in range(4 * frames)]
    config = COSMOS | {"latents_mean": numbers, "latents_std": numbers}
    made = of(AutoencoderKLCosmos, config).latents
    expected = torch.tensor(numbers).view(1, 4, -1)[0]  # as its pipeline does
    assert torch.equal(torch.tensor(made.mean).reshape(4, frames), expected)
