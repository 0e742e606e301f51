"""Every family: its encoder's clip form equals upstream's own encode, on small seeded models."""

import pytest
import torch

from converter.origin import GraphOptions
from models.encoders.table import ENCODERS, encoder_of
from models.source import FAMILIES, open_source
from tests.small_decoders import latent

# fp32 in another order of summation; a wrong frame or a wrong chunk of a norm shows as 1e-2.
TOLERANCE = 1e-5

KNOWN = [family for family in FAMILIES if family.upstream in ENCODERS]
NAMES = pytest.mark.parametrize("name", [family.name for family in KNOWN])


@pytest.fixture(scope="module")
def encoder(small_source):
    """A function name of a family -> its small encoder, made once."""
    made = {}

    def get(name):
        if name not in made:
            opened = open_source(str(small_source(name, encoder=True)), 0)
            made[name] = opened.adapted(GraphOptions(encoder=True)).encoder
        return made[name]

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


@pytest.mark.parametrize("preset", [preset for family in KNOWN for preset in family.presets])
def test_published_encoders_invert_their_decoders(preset):
    """`encoder_of` lets upstream encode, without weights, and compares the sizes."""
    family = next(family for family in FAMILIES if preset in family.presets)
    with torch.device("meta"):
        vae = family.upstream(**family.presets[preset])
        encoder = encoder_of(vae, family.wrap(vae).geometry)
        clip = encoder.clip(dynamic=False)
    wanted = sum(w.numel() for n, w in vae.named_parameters() if n.startswith(("enc", "quant")))
    assert sum(weight.numel() for weight in clip.parameters()) == wanted
