import pytest
import torch

from converter.errors import UserError
from models.encoders.table import encoder_of
from models.encoders.wan import WanEncoder
from models.wan import WanDecoder
from tests.small_decoders import WAN_2_1, WAN_2_2, WAN_2_2_TWO_STAGES, latent, wan

# fp32 in another order of summation: measured 6e-8 to 3e-7; a frame of wrong history shows as 1e-2.
TOLERANCE = 2e-6

CONFIGS = pytest.mark.parametrize(
    "config",
    [c | {"num_res_blocks": 1} for c in (WAN_2_1, WAN_2_2, WAN_2_2_TWO_STAGES)],
    ids=["2.1", "2.2", "2.2-two-stages"],
)


def encoder(config):
    vae = wan(config)
    return vae, WanEncoder(vae, WanDecoder(vae).geometry)


def encode(vae, x):
    """Upstream's own encode."""
    with torch.inference_mode():
        return vae.encode(x).latent_dist.mean


@CONFIGS
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_clip_equals_upstreams_loop(config, dynamic, frames):
    vae, ours = encoder(config)
    x = latent(2, 3, frames, 24, 16).clamp(-1, 1)
    expected = encode(vae, x)
    with torch.inference_mode():
        made = ours.clip(dynamic=dynamic)(x)
    assert tuple(made.shape) == ours.latent_shape(tuple(x.shape))
    assert expected.std(dim=(0, 1, 3, 4)).min() > 0.05
    torch.testing.assert_close(made, expected, rtol=0, atol=TOLERANCE)


@CONFIGS
def test_a_video_whose_last_frames_upstream_would_leave_out_is_refused(config):
    vae, ours = encoder(config)
    x = latent(1, 3, 7, 8, 8)
    assert torch.equal(encode(vae, x), encode(vae, x[:, :, :5]))
    with pytest.raises(
        ValueError, match="T is 7, but must be 1 more than a multiple of 4, as 1 is"
    ):
        ours.latent_shape((1, 3, 7, 8, 8))


def test_a_factor_in_time_that_upstreams_four_frames_do_not_have():
    deep = WAN_2_1 | {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [True] * 3}
    vae = wan(deep)
    with pytest.raises(UserError, match="factor of 8 in time"):
        WanEncoder(vae, WanDecoder(vae).geometry)


def test_an_encoder_that_upstream_cannot_run_is_refused():
    """Without residual blocks, nothing brings the channels from one width to the next."""
    vae = wan(WAN_2_1)
    with pytest.raises(UserError, match="does not encode with this config: RuntimeError"):
        encoder_of(vae, WanDecoder(vae).geometry)


@CONFIGS
def test_the_sizes_of_a_dynamic_graph_are_all_taken(config):
    _, ours = encoder(config)
    frames, height, width = (ours.sizes()[axis] for axis in (2, 3, 4))
    assert (frames.factor, frames.offset) == (4, -3)
    assert height.factor == width.factor == ours.geometry.space
