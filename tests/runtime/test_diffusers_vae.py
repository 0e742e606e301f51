"""The drop-in in pipelines of diffusers, against the autoencoder that it was exported from."""

import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

from converter.errors import UserError
from converter.export_stream import export_stream
from converter.runtime import DiffusersVAE
from tests import stream_graphs
from tests.small_decoders import WAN_2_1, latent, wan

TOLERANCE = 1e-5
CONFIG = WAN_2_1 | {"latents_mean": [0.5, -0.5, 0.1, 0.0], "latents_std": [2.0, 0.5, 1.5, 1.0]}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    vae = wan(CONFIG)
    vae.save_pretrained(folder / "small")
    path = folder / "wan.json"
    export_stream(
        str(folder / "small"), path, chunk=2, latent=(1, 4, 2, 4, 4), dynamic=True, check=False
    )
    return vae, path


def pipeline(vae):
    """Wan's, with a transformer of one layer and no text encoder."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=8,
        num_layers=1,
    )
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames(pipe, kind="pt"):
    made = pipe(
        prompt_embeds=torch.zeros(1, 3, 8),
        latents=latent(1, 4, 3, 4, 8),
        height=4 * 4,
        width=8 * 4,
        num_frames=9,
        guidance_scale=1.0,
        num_inference_steps=2,
        output_type=kind,
    )
    return made.frames


def test_a_whole_run_of_wans_pipeline(both):
    vae, path = both
    pipe = pipeline(vae)
    expected = frames(pipe).numpy()
    pipe.vae = DiffusersVAE(path, "cpu")
    video = frames(pipe)
    assert expected.shape == (1, 9, 3, 16, 32)
    assert expected.std() > 0.01
    np.testing.assert_allclose(video.numpy(), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(frames(pipe, "np").shape, (1, 9, 16, 32, 3))


def test_a_pipeline_is_made_with_it(both):
    vae, path = both
    made, expected = pipeline(DiffusersVAE(path, "cpu")), pipeline(vae)
    assert made.vae_scale_factor_spatial == expected.vae_scale_factor_spatial == 4
    assert made.vae_scale_factor_temporal == expected.vae_scale_factor_temporal
    assert made.components["vae"] is made.vae
    made.to("cpu", torch.float16)
    assert made.vae.dtype == torch.float32


def test_decode_returns_what_upstream_returns(both):
    vae, path = both
    drop_in = DiffusersVAE(path, "cpu")
    z = latent(2, 4, 3, 4, 5)
    with torch.inference_mode():
        expected = vae.decode(z)
    for video in (drop_in.decode(z).sample, drop_in.decode(z, return_dict=False)[0]):
        assert isinstance(video, torch.Tensor)
        torch.testing.assert_close(video, expected.sample, rtol=0, atol=TOLERANCE)
    assert type(drop_in.decode(z)) is type(expected)


def test_what_pipelines_read(both):
    vae, path = both
    drop_in = DiffusersVAE(path, "cpu")
    assert drop_in.config.latents_mean == vae.config.latents_mean
    assert drop_in.config.z_dim == 4
    assert drop_in.config.scale_factor_temporal == vae.config.scale_factor_temporal
    for name in ("temperal_downsample", "spatial_compression_ratio", "use_tiling"):
        assert getattr(drop_in, name) == getattr(vae, name)
    assert (drop_in.dtype, drop_in.device) == (torch.float32, torch.device("cpu"))
    assert drop_in.to("meta").device == torch.device("meta")
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        _ = drop_in.no_such_thing


def test_tiles_by_upstreams_own_call(both):
    vae, path = both
    drop_in = DiffusersVAE(path, "cpu")
    z = latent(1, 4, 2, 6, 7)
    sizes = {
        "tile_sample_min_height": 16,
        "tile_sample_min_width": 20,
        "tile_sample_stride_height": 12,
        "tile_sample_stride_width": 16,
    }
    with torch.inference_mode():
        whole = vae.decode(z).sample
        vae.enable_tiling(**sizes)
        tiled = vae.decode(z).sample
        vae.disable_tiling()
    assert (tiled - whole).abs().max() > 0.01
    drop_in.enable_tiling(**sizes)
    torch.testing.assert_close(drop_in.decode(z).sample, tiled, rtol=0, atol=TOLERANCE)
    drop_in.disable_tiling()
    torch.testing.assert_close(drop_in.decode(z).sample, whole, rtol=0, atol=TOLERANCE)
    with pytest.raises(UserError, match="13 pixels are no multiple of 4"):
        drop_in.enable_tiling(tile_sample_min_height=13)
    with pytest.raises(UserError, match="tiles of 4 cannot begin every 5, in latent pixels"):
        drop_in.enable_tiling(tile_sample_min_height=16, tile_sample_stride_height=20)


def test_what_is_refused(both, tmp_path):
    drop_in = DiffusersVAE(both[1], "cpu")
    z = latent(1, 4, 2, 4, 4)
    with pytest.raises(UserError, match="give no other decode_timestep"):
        drop_in.decode(z, torch.tensor([0.05]))
    torch.testing.assert_close(drop_in.decode(z, torch.zeros(1)), drop_in.decode(z))
    with pytest.raises(UserError, match="this is a decoder"):
        drop_in.encode(z)
    with pytest.raises(UserError, match="does not say what it was exported from"):
        DiffusersVAE(stream_graphs.write(tmp_path / "a.json"), "cpu")


@pytest.mark.parametrize("option", ["denormalize", "uint8", "encoder"])
def test_a_graph_that_does_what_a_pipeline_does_is_refused(both, option):
    path = both[1].with_name(f"{option}.json")
    manifest = json.loads(both[1].read_text())
    manifest["origin"]["graph"][option] = True
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="without --denormalize and --uint8"):
        DiffusersVAE(path, "cpu")
