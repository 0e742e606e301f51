"""Tiles against upstream's own `tiled_decode`, family by family."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from converter.errors import UserError
from converter.runtime.tiles import Axis
from converter.runtime.upstream_tiles import upstream_tiles
from models.describe import describe
from models.source import FAMILIES
from tests.small_decoders import WAN_2_2, latent
from tests.small_families import SMALL

# One rounding of fp32 a blend, of values of size 1.
TOLERANCE = 1e-6
TILED = [name for name in SMALL if name not in ("Cosmos", "Allegro")]
CONFIGS = {name: SMALL[name] for name in TILED} | {"Wan 2.2": WAN_2_2}


@pytest.fixture(autouse=True)
def one_thread():
    """Convolutions as small as these wait for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(name):
    """An upstream model whose tiles are of 4 x 8 latent pixels, 3 x 6 apart; and its wrapper."""
    family = next(f for f in FAMILIES if f.name == name.removesuffix(" 2.2"))
    torch.manual_seed(3)
    vae = family.upstream(**CONFIGS[name]).eval()
    with torch.no_grad():  # far from where upstream clamps, which it does after blending
        for weight in vae.get_submodule(family.last_layer).parameters():
            weight.mul_(0.1)
    decoder = family.wrap(vae)
    vae.spatial_compression_ratio = space = decoder.geometry.space
    for side, size, stride in (("height", 4, 3), ("width", 8, 6)):
        setattr(vae, f"tile_sample_min_{side}", size * space)
        if hasattr(vae, f"tile_sample_stride_{side}"):
            setattr(vae, f"tile_sample_stride_{side}", stride * space)
        if hasattr(vae, f"tile_latent_min_{side}"):
            setattr(vae, f"tile_latent_min_{side}", size)
        if hasattr(vae, f"tile_overlap_factor_{side}"):
            setattr(vae, f"tile_overlap_factor_{side}", 1 - stride / size)
    if hasattr(vae, "tile_overlap_factor"):  # one for both sides
        vae.tile_overlap_factor = 0.25
    return vae, decoder


def upstream_decode(vae, z):
    more = [None] if "LTX" in type(vae).__name__ else []
    made = vae.tiled_decode(z, *more)
    return (made if isinstance(made, torch.Tensor) else made.sample).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_upstream(name):
    vae, decoder = small(name)
    tiles = upstream_tiles(describe(vae, decoder.geometry))
    z = latent(1, decoder.geometry.channels, 2, 5, 14)
    sizes = []

    def decode(place, part):
        sizes.append(part.shape[3:])
        return decoder.reference(torch.from_numpy(part)).numpy()

    with torch.inference_mode():
        expected = upstream_decode(vae, z)
        video = tiles.decode(z.numpy(), decode)
        whole = decoder.reference(z).numpy()
    assert expected.shape == whole.shape
    assert np.abs(expected).max() < 1, "upstream clamps what it blended"
    assert np.abs(expected - whole).max() > 100 * TOLERANCE, "tiles must make a difference"
    assert max(sizes) == (4, 8)
    np.testing.assert_allclose(video, expected, rtol=0, atol=TOLERANCE)


def published(name):
    family = next(f for f in FAMILIES if f.name == name)
    with torch.device("meta"):
        vae = family.upstream(**next(iter(family.presets.values())))
        geometry = family.wrap(vae).geometry
    return describe(vae, geometry)


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("Wan", Axis(32, 24), Axis(32, 24)),
        ("Qwen-Image", Axis(32, 24), Axis(32, 24)),
        ("HunyuanVideo", Axis(32, 24), Axis(32, 24)),
        ("HunyuanVideo 1.5", Axis(16, 12), Axis(16, 12)),
        ("CogVideoX", Axis(30, 25), Axis(45, 36)),
        ("LTX-Video", Axis(16, 14), Axis(16, 14)),
        ("LTX2-Video", Axis(16, 14), Axis(16, 14)),
        ("Mochi", Axis(32, 24), Axis(32, 24)),
    ],
)
def test_the_tiles_of_the_published_models(name, height, width):
    tiles = upstream_tiles(published(name))
    assert (tiles.height, tiles.width) == (height, width)
    assert tiles.space == {"HunyuanVideo 1.5": 16}.get(name, 32 if "LTX" in name else 8)


def test_cosmos_sets_sizes_but_has_no_tiled_decode():
    assert upstream_tiles(published("Cosmos")) is None


def test_a_ratio_that_is_not_the_decoders_own():
    """Diffusers' tiles would not meet: it cuts latents by the ratio of the config."""
    origin = published("Wan")
    odd = replace(origin, attributes={**origin.attributes, "spatial_compression_ratio": 4})
    with pytest.raises(UserError, match="give a size by --tile"):
        upstream_tiles(odd)


def test_tiles_that_are_no_whole_latent_pixels():
    origin = published("Wan")
    odd = replace(origin, attributes={**origin.attributes, "tile_sample_stride_width": 100})
    with pytest.raises(UserError, match="256 pixels every 100 along the width"):
        upstream_tiles(odd)
