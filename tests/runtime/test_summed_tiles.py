"""Allegro end to end: exported, decoded by tiles, against upstream's decode."""

import json

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKLAllegro

from converter import origin
from converter.errors import UserError
from converter.export import export
from converter.runtime import Decoder, DiffusersVAE
from converter.runtime.summed_tiles import SummedTiles
from converter.runtime.tiles import Axis, Place
from converter.runtime.upstream_tiles import upstream_tiles
from models.describe import describe
from models.source import FAMILIES
from tests.small_decoders import latent
from tests.small_families import ALLEGRO

TOLERANCE = 1e-5
KERNEL, STRIDE = (8, 32, 32), (4, 16, 24)
"""Of 2 x 4 x 4 latents, one every 1 x 2 x 3."""
SHAPE = (1, 4, 4, 8, 7)
"""3 x 3 x 2 tiles."""
TILES = SummedTiles(Axis(4, 2), Axis(4, 3), 8, time=Axis(2, 1), frames=4)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("allegro")
    torch.manual_seed(4)
    vae = AutoencoderKLAllegro(**ALLEGRO).eval()
    with torch.no_grad():  # a video within -1 and 1, or nearly
        vae.decoder.conv_out.weight.mul_(0.1)
    vae.save_pretrained(folder / "small")
    path = folder / "allegro.onnx"
    assert export(
        str(folder / "small"), path, latent=(1, 4, 2, 4, 4), dynamic=True, check=False
    ).written
    vae.enable_tiling()
    vae.kernel, vae.stride = KERNEL, STRIDE
    # The graph states upstream's own tiles, which are larger than a test should be.
    model = onnx.load(path)
    entry = next(e for e in model.metadata_props if e.key == origin.KEY)
    stated = json.loads(entry.value)
    stated["attributes"] |= {"kernel": KERNEL, "stride": STRIDE}
    entry.value = json.dumps(stated)
    onnx.save(model, path)
    return vae, path


def upstream(vae, z):
    with torch.inference_mode():
        return vae.decode(z).sample


def test_equal_to_upstreams_decode(both):
    vae, path = both
    z = latent(*SHAPE)
    expected = upstream(vae, z).transpose(1, 2).numpy()
    tiles = upstream_tiles(Decoder(path, "cpu").origin)
    assert tiles == TILES
    video = Decoder(path, "cpu", tiles=tiles).decode(z.numpy())
    assert np.abs(Decoder(path, "cpu").decode(z.numpy()) - expected).max() > 0.01
    np.testing.assert_allclose(video, expected, rtol=0, atol=TOLERANCE)


def test_in_the_place_of_a_pipelines_autoencoder(both):
    vae, path = both
    z = latent(*SHAPE)
    drop_in = DiffusersVAE(path, "cpu")
    drop_in.enable_tiling()
    expected = upstream(vae, z)
    assert expected.shape == (1, 16, 3, 64, 56)
    torch.testing.assert_close(drop_in.decode(z).sample, expected, rtol=0, atol=TOLERANCE)
    with pytest.raises(UserError, match="have one size: give none"):
        drop_in.enable_tiling(tile_sample_min_height=64)


def test_one_tile_or_less_is_left_as_it_is():
    z = np.random.default_rng(0).standard_normal((1, 3, 2, 4, 3), np.float32)

    places = []

    def decode(place, part):
        places.append(place)
        return part.repeat(4, 2).repeat(8, 3).repeat(8, 4)

    assert TILES.needed(4, 3)  # of a longer clip
    np.testing.assert_array_equal(TILES.decode(z, decode), decode(None, z))
    assert places == [Place(0, 0, 0, 0), None]


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_tiles_fade_into_each_other_along_every_axis(axis):
    """Three tiles of 0, 1 and 2, each of eight pixels of which four are also the next one's."""
    tiles = SummedTiles(Axis(4, 2), Axis(4, 2), 2, time=Axis(4, 2), frames=2)
    shape = [8 if at == axis else 1 for at in range(5)]
    z = np.arange(8, dtype=np.float32).reshape(shape) / 2
    first, places = [], []

    def decode(place, part):
        """All of it as its first latent pixel is."""
        first.append(part.flat[0])
        places.append(place)
        n, _, t, h, w = part.shape
        return np.full((n, 3, 2 * t, 2 * h, 2 * w), part.flat[0], np.float32)

    video = tiles.decode(z, decode)
    assert first == [0, 1, 2]
    down, across = axis == 3, axis == 4
    assert places == [Place(n * down, n * across, 2 * n * down, 2 * n * across) for n in range(3)]
    fade = [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2, 2, 2]
    expected = np.float32(fade).reshape([16 if at == axis else 1 for at in range(5)])
    assert video.shape == (1, 3, *(16 if at == axis else 2 for at in (2, 3, 4)))
    np.testing.assert_array_equal(video, np.broadcast_to(expected, video.shape))


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 4, 2, 7, 4), "7 on H, which tiles of 4, one every 2, do not cover; 6 and 8 would do"),
        ((1, 4, 2, 4, 8), "8 on W, which tiles of 4, one every 3, do not cover; 7 and 10 would"),
    ],
)
def test_what_upstream_would_leave_black_is_refused(shape, complaint):
    with pytest.raises(UserError, match=complaint):
        TILES.decode(np.zeros(shape, np.float32), lambda place, part: part)


def test_the_tiles_of_the_published_model():
    family = next(f for f in FAMILIES if f.name == "Allegro")
    with torch.device("meta"):
        vae = family.upstream(**family.presets["allegro"])
        geometry = family.wrap(vae).geometry
    published = upstream_tiles(describe(vae, geometry))
    assert published == SummedTiles(Axis(40, 25), Axis(40, 30), 8, time=Axis(6, 4), frames=4)
    assert not published.misfit((1, 4, 22, 90, 160))  # 88 frames of 720x1280, its own size
