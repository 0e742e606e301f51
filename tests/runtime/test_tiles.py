"""What of tiles can be worked out by hand; test_upstream_tiles.py holds them against upstream."""

import numpy as np
import pytest

from converter.runtime.tiles import Axis, Tiles


def constant(values):
    """Decodes every tile to one value by its place, twice as large along H and W."""

    def decode(place, part):
        n, _, t, h, w = part.shape
        return np.full((n, 3, t, 2 * h, 2 * w), values[place.row, place.column], np.float32)

    return decode


def test_one_tile_is_left_as_it_is():
    tiles = Tiles(Axis(4, 3), Axis(4, 3), space=1)
    z = np.random.default_rng(0).standard_normal((1, 3, 2, 3, 2), np.float32)
    assert not tiles.needed(4, 4)
    assert tiles.needed(4, 5)
    assert tiles.needed(5, 4)
    np.testing.assert_array_equal(tiles.decode(z, lambda place, part: part), z)


def test_a_seam_fades_linearly():
    tiles = Tiles(Axis(4, 4), Axis(4, 2), space=2)
    z = np.zeros((1, 1, 1, 1, 5), np.float32)
    video = tiles.decode(z, constant(np.array([[0.0, 1.0, 3.0]])))
    assert video.shape == (1, 3, 1, 2, 10)
    fade = [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 2]
    np.testing.assert_array_equal(video, np.broadcast_to(np.float32(fade), video.shape))


def test_the_pixels_of_a_patch_fade_alike():
    tiles = Tiles(Axis(3, 3), Axis(3, 1), space=2, step=2)
    z = np.zeros((1, 1, 1, 1, 4), np.float32)
    video = tiles.decode(z, constant(np.array([[0.0, 1.0, 1.0, 1.0]])))
    np.testing.assert_array_equal(video[0, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5, 1, 1])


def test_a_last_tile_smaller_than_the_overlap():
    """Diffusers takes the last pixels of the tile before, whatever place they show."""
    tiles = Tiles(Axis(4, 2), Axis(9, 9), space=1)
    z = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5, 1)
    video = tiles.decode(z, lambda place, part: part * 1 if place.row < 2 else part * 0)
    # Rows 0-3, 2-4 (fades in over two), 4 (fades in over one, from row 4: a weight of 0).
    np.testing.assert_array_equal(video.ravel(), [0, 1, 2, 3, 4])


def test_the_decoder_keeps_its_array():
    made = np.ones((1, 3, 1, 4, 4), np.float32)
    tiles = Tiles(Axis(4, 2), Axis(4, 2), space=1)
    tiles.decode(
        np.zeros((1, 1, 1, 4, 6), np.float32), lambda place, part: made[..., : part.shape[4]]
    )
    np.testing.assert_array_equal(made, 1)


def test_half_precision_stays_half_precision():
    tiles = Tiles(Axis(4, 4), Axis(4, 2), space=2)
    z = np.zeros((1, 1, 1, 1, 5), np.float16)
    video = tiles.decode(
        z, lambda p, part: constant(np.array([[0.0, 1.0, 3.0]]))(p, part).astype(np.float16)
    )
    assert video.dtype == np.float16
    np.testing.assert_array_equal(
        video[0, 0, 0, 0], np.float16([0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 2])
    )


@pytest.mark.parametrize(("size", "stride"), [(4, 0), (4, 5), (0, 0)])
def test_tiles_that_leave_gaps(size, stride):
    with pytest.raises(ValueError, match=f"tiles of {size} cannot begin every {stride}"):
        Axis(size, stride)
