import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm

from models.base import Geometry
from models.wan import WAN, WanDecoder
from tests.small_decoders import WAN_2_1, WAN_2_2, WAN_2_2_TWO_STAGES, decode, latent, wan

# fp32 in another order of summation: measured 1e-7 to 6e-7 on these decoders; a frame of wrong
# history shows as 1e-2.
TOLERANCE = 2e-6

CONFIGS = pytest.mark.parametrize(
    "config", [WAN_2_1, WAN_2_2, WAN_2_2_TWO_STAGES], ids=["2.1", "2.2", "2.2-two-stages"]
)


def run_clip(vae, z, *, dynamic=False):
    with torch.inference_mode():
        return WanDecoder(vae).clip(dynamic=dynamic)(z)


@CONFIGS
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_clip_equals_upstreams_loop(config, dynamic, frames):
    vae, z = wan(config), latent(1, 4, frames, 5, 3)
    expected = decode(vae, z)
    video = run_clip(vae, z, dynamic=dynamic)
    assert tuple(video.shape) == WanDecoder(vae).geometry.video_shape(tuple(z.shape))
    assert 0.05 < expected.std() < 0.5
    assert expected.std(dim=(0, 1, 3, 4)).min() > 0.05
    torch.testing.assert_close(video, expected, rtol=0, atol=TOLERANCE)


@CONFIGS
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_two_clips_in_a_batch_stay_apart(config, dynamic):
    vae, z = wan(config), latent(2, 4, 3, 4, 3)
    video = run_clip(vae, z, dynamic=dynamic)
    torch.testing.assert_close(video, decode(vae, z), rtol=0, atol=TOLERANCE)


@CONFIGS
def test_values_beyond_the_range_are_clamped(config):
    vae, z = wan(config), latent(1, 4, 2, 4, 3)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(20)
    video = run_clip(vae, z)
    assert video.min() == -1
    assert video.max() == 1
    assert (video.abs() < 1).any()
    torch.testing.assert_close(video, decode(vae, z), rtol=0, atol=20 * TOLERANCE)


def run_stream(vae, z, chunk):
    """The video of a latent whose frames are a multiple of `chunk`, by chunks."""
    stream = WanDecoder(vae).stream(chunk)
    with torch.inference_mode():
        video, caches = stream.first(z[:, :, :chunk])
        made = [video]
        for start in range(chunk, z.shape[2], chunk):
            video, caches = stream.next(z[:, :, start : start + chunk], caches)
            made.append(video)
    return made


@CONFIGS
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_stream_equals_upstreams_loop(config, chunk):
    vae, z = wan(config), latent(2, 4, 2 * chunk if chunk == 3 else 4, 4, 3)
    time = WanDecoder(vae).geometry.time
    made = run_stream(vae, z, chunk)
    frames = [video.shape[2] for video in made]
    assert frames == [(chunk - 1) * time + 1] + [chunk * time] * (len(made) - 1)
    torch.testing.assert_close(torch.cat(made, 2), decode(vae, z), rtol=0, atol=2 * TOLERANCE)


@CONFIGS
@pytest.mark.parametrize("chunk", [1, 2])
def test_caches_are_named_and_keep_their_shapes(config, chunk):
    vae, z = wan(config), latent(2, 4, chunk, 4, 3)
    stream = WanDecoder(vae).stream(chunk)
    with torch.inference_mode():
        _, first = stream.first(z)
        _, later = stream.next(z, first)
    shapes = [(2, c.channels, c.frames, 4 * c.scale, 3 * c.scale) for c in stream.caches]
    assert [tuple(cache.shape) for cache in first] == shapes
    assert [tuple(cache.shape) for cache in later] == shapes
    convolutions = {
        name: module
        for name, module in vae.named_modules()
        if isinstance(module, WanCausalConv3d)
        and name.startswith("decoder")
        and module.kernel_size[0] > 1
    }
    assert [cache.name for cache in stream.caches] == list(convolutions)
    for cache in stream.caches:
        assert cache.channels == convolutions[cache.name].in_channels
        assert cache.frames == 2


def test_upstream_stays_as_it_was_and_shares_its_weights():
    vae, z = wan(WAN_2_1), latent(1, 4, 3, 4, 3)
    before = decode(vae, z)
    clip = WanDecoder(vae).clip(dynamic=False)
    assert torch.equal(WanDecoder(vae).reference(z), before)
    decoder = [*vae.decoder.named_parameters(), *vae.post_quant_conv.named_parameters()]
    theirs = {weight.data_ptr() for name, weight in decoder if "norm" not in name}
    ours = {w.data_ptr() for name, w in clip.named_parameters() if "norm" not in name}
    assert ours == theirs


def test_a_norm_that_upstream_changed_is_refused():
    vae = wan(WAN_2_1)
    vae.decoder.norm_out = WanRMS_norm(4, images=False, bias=True)
    with pytest.raises(ValueError, match="without bias"):
        WanDecoder(vae).clip(dynamic=False)


@pytest.mark.parametrize(
    ("preset", "geometry", "parameters"),
    [
        ("wan2.1", Geometry(channels=16, video_channels=3, time=4, space=8), 73_295_603),
        ("wan2.2-ti2v", Geometry(channels=48, video_channels=3, time=4, space=16), 555_051_580),
    ],
)
def test_published_configurations(preset, geometry, parameters):
    with torch.device("meta"):
        vae = AutoencoderKLWan(**WAN.presets[preset])
    assert WanDecoder(vae).geometry == geometry
    assert vae.config.scale_factor_spatial == geometry.space
    modules = (vae.decoder, vae.post_quant_conv)
    assert sum(w.numel() for module in modules for w in module.parameters()) == parameters
