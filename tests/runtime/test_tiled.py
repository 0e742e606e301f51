"""Graphs and streams by tiles, against upstream's tiled decode and its clamp."""

import numpy as np
import pytest
import torch

from converter import convert_stream
from converter.convert import Options
from converter.errors import UserError
from converter.export import export
from converter.export_stream import export_stream
from converter.runtime import Decoder
from converter.runtime.tiles import Axis, Tiles
from converter.runtime.upstream_tiles import step_of
from tests import small_decoders, stream_graphs
from tests.small_decoders import WAN_2_1, WAN_2_2, latent, wan

TOLERANCE = 1e-5
ONE_STAGE = WAN_2_1 | {
    "dim_mult": [1, 2],
    "temperal_downsample": [True],
    "scale_factor_spatial": 2,
}
SIZE, STRIDE = 4, 3
TILES = Tiles(Axis(2, 2), Axis(3, 2), space=1)


def bright(config):
    """A decoder that makes much of what upstream clamps."""
    vae = wan(config)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(3)
    return vae


def tiled(vae, space):
    """Upstream, told to tile; it clamps what it blended."""
    vae.enable_tiling(SIZE * space, SIZE * space, STRIDE * space, STRIDE * space)
    return vae


def assert_equal_to_upstream(decoder, vae, frames):
    z = latent(1, 4, frames, 6, 5)
    vae.use_tiling = True
    expected = small_decoders.decode(vae, z).numpy()
    vae.use_tiling = False
    whole = small_decoders.decode(vae, z).numpy()
    assert np.abs(whole - expected).max() > 0.1
    assert (np.abs(expected) == 1).mean() > 0.01
    chunks = list(decoder.stream(z.numpy()))
    np.testing.assert_allclose(np.concatenate(chunks, 2), expected, rtol=0, atol=TOLERANCE)
    return chunks


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    vae = bright(ONE_STAGE)
    vae.save_pretrained(folder / "small")
    sizes = {"chunk": 2, "latent": (1, 4, 2, 4, 4), "dynamic": True, "check": False}
    export_stream(str(folder / "small"), folder / "plain.json", **sizes)
    plain, converted = folder / "plain.json", folder / "converted.json"
    assert convert_stream.run(plain, converted, Options(), lambda phase: None).written
    return tiled(vae, 2), folder


@pytest.mark.parametrize("name", ["plain", "converted"])
def test_a_stream_by_tiles(stream, name):
    vae, folder = stream
    tiles = Tiles(Axis(SIZE, STRIDE), Axis(SIZE, STRIDE), space=2)
    decoder = Decoder(folder / f"{name}.json", "cpu", tiles=tiles)
    chunks = assert_equal_to_upstream(decoder, vae, 5)
    assert [chunk.shape[2] for chunk in chunks] == [3, 4, 2]
    assert decoder._graphs.inner.clamp


def test_a_clip_graph_by_tiles_of_patches(tmp_path):
    vae = bright(WAN_2_2)
    vae.save_pretrained(tmp_path / "small")
    path = tmp_path / "out.onnx"
    export(str(tmp_path / "small"), path, latent=(1, 4, 3, 4, 4), dynamic=True, check=False)
    step = step_of(Decoder(path, "cpu").origin)
    assert step == 2
    tiles = Tiles(Axis(SIZE, STRIDE), Axis(SIZE, STRIDE), space=4, step=step)
    assert_equal_to_upstream(Decoder(path, "cpu", tiles=tiles), tiled(vae, 4), 3)


def test_one_tile_or_less_is_decoded_whole_and_clamped(stream):
    vae, folder = stream
    tiles = Tiles(Axis(6, 6), Axis(5, 5), space=2)
    z = latent(1, 4, 3, 6, 5)
    vae.use_tiling = False
    video = Decoder(folder / "plain.json", "cpu", tiles=tiles).decode(z.numpy())
    expected = small_decoders.decode(vae, z).numpy()
    np.testing.assert_allclose(video, expected, rtol=0, atol=TOLERANCE)


def test_bytes_and_torch(stream):
    _, folder = stream
    tiles = Tiles(Axis(SIZE, STRIDE), Axis(SIZE, STRIDE), space=2)
    decoder = Decoder(folder / "plain.json", "cpu", tiles=tiles)
    z = latent(1, 4, 3, 6, 5)
    video = decoder.decode(z)
    assert isinstance(video, torch.Tensor)
    pixels = ((video.numpy() + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 4, 1)
    np.testing.assert_array_equal(decoder.decode(z, uint8=True).numpy(), pixels)


def test_a_graph_of_one_size_is_refused(tmp_path):
    path = stream_graphs.write(tmp_path / "a.json")
    with pytest.raises(UserError, match="made for latents of H = 4 and W = 5, and tiles are of"):
        Decoder(path, "cpu", tiles=TILES)
