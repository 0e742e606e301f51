"""Every family: its encoder's clip form equals upstream's own encode, on small seeded models."""

import json

import pytest
import torch

from converter.errors import UserError
from converter.origin import GraphOptions
from models.encoders.table import ENCODERS, encoder_of
from models.source import FAMILIES, open_source
from tests.small_decoders import latent
from tests.small_families import COSMOS, LTX2_VIDEO, LTX_VIDEO, WITH_ENCODER

# fp32 in another order of summation; a wrong frame or a wrong chunk of a norm shows as 1e-2.
TOLERANCE = 1e-5

NAMES = pytest.mark.parametrize("name", [family.name for family in FAMILIES])


@pytest.fixture(scope="module")
def encoder(small_source):
    """A function name of a family -> its small encoder, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = opened_encoder(small_source(name, encoder=True))
        return made[name]

    return get


def opened_encoder(folder):
    return open_source(str(folder), 0).adapted(GraphOptions(encoder=True)).encoder


@pytest.fixture
def configured(tmp_path):
    """A function class name, config -> the encoder."""

    def get(class_name, config):
        (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": class_name}))
        return opened_encoder(tmp_path)

    return get


def video_of(encoder, n, frames, height=3, width=2):
    shape = encoder.geometry.video_shape((n, 4, frames, height, width))
    return latent(*shape).clamp(-1, 1)


def check(encoder, video, *, dynamic):
    with torch.inference_mode():
        expected = encoder.reference(video)
        made = encoder.clip(dynamic=dynamic)(video)
    assert tuple(expected.shape) == encoder.latent_shape(tuple(video.shape))
    assert expected.std(dim=(0, 1, 3, 4)).min() > 0.02
    torch.testing.assert_close(made, expected, rtol=0, atol=TOLERANCE)


@NAMES
@pytest.mark.parametrize(("frames", "dynamic"), [(1, False), (1, True), (3, False), (5, True)])
def test_clip_equals_upstreams_encode(encoder, name, frames, dynamic):
    check(encoder(name), video_of(encoder(name), 1, frames), dynamic=dynamic)


@NAMES
@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_the_sizes_of_a_dynamic_graph_are_all_taken(encoder, name, k):
    ours = encoder(name)
    sizes = ours.sizes()
    assert list(sizes) == [2, 3, 4]
    video = (1, 3, *(size.factor * k + size.offset for size in sizes.values()))
    frames = 2 * k - 1 if name == "CogVideoX" else k
    assert ours.latent_shape(video) == (1, 4, frames, k, k)


@NAMES
def test_two_videos_in_a_batch_stay_apart(encoder, name):
    check(encoder(name), video_of(encoder(name), 2, 3), dynamic=True)


@NAMES
def test_upstream_stays_as_it_was_and_shares_its_weights(encoder, name):
    ours = encoder(name)
    video = video_of(ours, 1, 3)
    with torch.inference_mode():
        before = ours.reference(video)
        clip = ours.clip(dynamic=False)
        assert torch.equal(ours.reference(video), before)
    theirs = {weight.data_ptr() for weight in ours._vae.parameters()}
    shared = {w.data_ptr() for part, w in clip.named_parameters() if "norm" not in part}
    assert shared
    assert shared <= theirs


@pytest.mark.parametrize("frames", [2, 4, 6, 7, 9])
def test_cogvideox_takes_its_norms_over_upstreams_chunks(encoder, frames):
    """Upstream encodes chunks of eight frames, and the odd one with the first."""
    check(encoder("CogVideoX"), video_of(encoder("CogVideoX"), 1, frames), dynamic=False)


def test_hunyuan_video_is_compared_with_one_piece_of_any_length(encoder):
    """Upstream would cut videos of more than 16 frames into pieces and blend them."""
    ours = encoder("HunyuanVideo")
    ours._vae.use_framewise_encoding = True
    check(ours, video_of(ours, 1, 6), dynamic=False)
    assert ours._vae.use_framewise_encoding


LTX_VIDEO_095 = LTX_VIDEO | {
    "block_out_channels": [4, 8, 16, 16],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 3,
    "spatio_temporal_scaling": [True] * 3,
    "downsample_type": ["spatial", "temporal", "spatiotemporal"],
}
"""As LTX-Video 0.9.5 and later."""


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("AutoencoderKLLTXVideo", LTX_VIDEO_095),
        ("AutoencoderKLLTXVideo", LTX_VIDEO | {"encoder_causal": False}),
        ("AutoencoderKLLTX2Video", LTX2_VIDEO | {"encoder_spatial_padding_mode": "reflect"}),
        ("AutoencoderKLLTX2Video", LTX2_VIDEO | {"encoder_causal": False}),
        ("AutoencoderKLCosmos", COSMOS | {"patch_type": "rearrange"}),
        ("AutoencoderKLQwenImage", WITH_ENCODER["Qwen-Image"] | {"temperal_downsample": [0, 1]}),
    ],
)
def test_other_configurations(configured, class_name, config):
    ours = configured(class_name, config)
    check(ours, video_of(ours, 1, 3), dynamic=True)


def test_a_padding_that_reflects_needs_two_pixels_of_the_latent(configured):
    reflecting = LTX2_VIDEO | {"encoder_spatial_padding_mode": "reflect"}
    with pytest.raises(ValueError, match="W is 1, but must be at least 2"):
        configured("AutoencoderKLLTX2Video", reflecting).latent_shape((1, 3, 9, 16, 8))
    zeros = LTX2_VIDEO | {"encoder_spatial_padding_mode": "zeros"}
    ours = configured("AutoencoderKLLTX2Video", zeros)
    assert ours.latent_shape((1, 3, 9, 16, 8)) == (1, 4, 3, 2, 1)


def test_an_encoder_that_does_not_invert_its_decoder_is_refused(configured):
    other = LTX_VIDEO | {"spatio_temporal_scaling": [True, False, False]}
    with pytest.raises(UserError, match=r"to \(1, 4, 5, 4, 4\) with this config, but decodes"):
        configured("AutoencoderKLLTXVideo", other)


PRESETS = [preset for family in FAMILIES for preset in family.presets]


@pytest.mark.parametrize("preset", PRESETS)
def test_published_encoders_invert_their_decoders(preset):
    """`encoder_of` lets upstream encode, without weights, and compares the sizes."""
    family = next(family for family in FAMILIES if preset in family.presets)
    with torch.device("meta"):
        vae = family.upstream(**family.presets[preset])
        encoder = encoder_of(vae, family.wrap(vae).geometry)
        clip = encoder.clip(dynamic=False)
    assert family.upstream in ENCODERS
    wanted = sum(w.numel() for n, w in vae.named_parameters() if n.startswith(("enc", "quant")))
    assert sum(weight.numel() for weight in clip.parameters()) == wanted
