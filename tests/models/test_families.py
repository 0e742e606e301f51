"""Every family: its clip form equals upstream's own decode, on small seeded decoders."""

import json

import pytest
import torch

from converter.errors import UserError
from models.base import Geometry
from models.source import FAMILIES, open_source
from tests.small_decoders import latent
from tests.small_families import LTX_VIDEO, LTX_VIDEO_TIMESTEP, SMALL

# fp32 in another order of summation, on videos of a range up to 4: measured up to 6e-6. A wrong
# frame, a wrong chunk of a norm or a wrong half of the channels shows as 1e-2 and more.
TOLERANCE = 1e-5

NAMES = pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.name != "Wan"])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function name -> the small decoder of that family, made once."""
    made = {}

    def get(name, config=None):
        key = name if config is None else f"{name} {sorted(config)}"
        if key not in made:
            folder = tmp_path_factory.mktemp("family")
            upstream = next(f.upstream.__name__ for f in FAMILIES if f.name == name)
            content = (config or SMALL[name]) | {"_class_name": upstream}
            (folder / "config.json").write_text(json.dumps(content))
            made[key] = open_source(str(folder), 0)
        return made[key]

    return get


def check(decoder, z, *, dynamic):
    with torch.inference_mode():
        expected = decoder.reference(z)
        video = decoder.clip(dynamic=dynamic)(z)
    assert tuple(expected.shape) == decoder.geometry.video_shape(tuple(z.shape))
    assert expected.std(dim=(0, 1, 3, 4)).min() > 0.05
    torch.testing.assert_close(video, expected, rtol=0, atol=TOLERANCE)


@NAMES
@pytest.mark.parametrize(
    ("frames", "dynamic"),
    [(1, False), (1, True), (2, True), (3, False), (5, True)],
)
def test_clip_equals_upstreams_decode(opened, name, frames, dynamic):
    check(opened(name).decoder, latent(1, 4, frames, 4, 3), dynamic=dynamic)


@NAMES
def test_two_clips_in_a_batch_stay_apart(opened, name):
    check(opened(name).decoder, latent(2, 4, 4, 3, 2), dynamic=True)


@pytest.mark.parametrize("frames", [4, 6, 7, 8, 9])
def test_cogvideox_takes_its_norms_over_upstreams_chunks(opened, frames):
    check(opened("CogVideoX").decoder, latent(1, 4, frames, 3, 2), dynamic=True)


def test_hunyuan_video_is_compared_with_one_piece_of_any_length(opened):
    """Upstream would cut latents of more than four frames into pieces and blend them."""
    decoder = opened("HunyuanVideo").decoder
    assert decoder._vae.use_framewise_decoding
    check(decoder, latent(1, 4, 6, 3, 2), dynamic=False)
    assert decoder._vae.use_framewise_decoding


def test_ltx_video_with_a_timestep(opened):
    check(opened("LTX-Video", LTX_VIDEO_TIMESTEP).decoder, latent(2, 4, 3, 3, 2), dynamic=False)


def test_a_causal_ltx_video(opened):
    causal = LTX_VIDEO | {"decoder_causal": True}
    check(opened("LTX-Video", causal).decoder, latent(1, 4, 3, 3, 2), dynamic=False)


def test_a_decoder_that_injects_noise_is_refused(opened):
    noisy = LTX_VIDEO | {"decoder_inject_noise": [True] * 4, "upsample_factor": [1] * 3}
    with pytest.raises(UserError, match="injects noise"):
        opened("LTX-Video", noisy | {"scaling_factor": 2.0})


def test_cosmos_that_rearranges_in_place_of_wavelets(opened):
    rearranging = SMALL["Cosmos"] | {"patch_type": "rearrange", "scaling_factor": 1.0}
    check(opened("Cosmos", rearranging).decoder, latent(1, 4, 3, 3, 2), dynamic=False)


@NAMES
def test_upstream_stays_as_it_was_and_shares_its_weights(opened, name):
    decoder, z = opened(name).decoder, latent(1, 4, 2, 3, 2)
    with torch.inference_mode():
        before = decoder.reference(z)
        clip = decoder.clip(dynamic=False)
        assert torch.equal(decoder.reference(z), before)
    theirs = {weight.data_ptr() for weight in decoder._vae.parameters()}
    ours = {w.data_ptr() for part, w in clip.named_parameters() if "norm" not in part}
    assert ours
    assert ours <= theirs


@pytest.mark.parametrize(
    ("preset", "geometry", "parameters"),
    [
        ("qwen-image", Geometry(16, 3, time=4, space=8), 73_295_603),
        ("hunyuan-video", Geometry(16, 3, time=4, space=8), 146_136_339),
        ("hunyuan-video-1.5", Geometry(32, 3, time=4, space=16), 871_309_571),
        ("cogvideox", Geometry(16, 3, time=4, space=8, frames="first alone if odd"), 123_368_451),
        ("ltx-video", Geometry(128, 3, time=8, space=32), 238_789_296),
        ("ltx2-video", Geometry(128, 3, time=8, space=32, least=2), 528_380_720),
        ("mochi", Geometry(12, 3, time=6, space=8), 362_526_595),
        ("cosmos", Geometry(16, 3, time=8, space=8), 62_738_832),
        ("allegro", Geometry(4, 3, time=4, space=8, frames="every"), 110_954_647),
    ],
)
def test_published_configurations(preset, geometry, parameters):
    family = next(family for family in FAMILIES if preset in family.presets)
    with torch.device("meta"):
        decoder = family.wrap(family.upstream(**family.presets[preset]))
    assert decoder.geometry == geometry
    clip = decoder.clip(dynamic=False)
    assert sum(weight.numel() for weight in clip.parameters()) == parameters
