import pytest

from models.base import Geometry

GEOMETRY = Geometry(channels=16, video_channels=3, time=4, space=8)


@pytest.mark.parametrize(
    ("latent", "video"),
    [
        ((1, 16, 1, 1, 1), (1, 3, 1, 8, 8)),
        ((2, 16, 3, 5, 7), (2, 3, 9, 40, 56)),
        ((1, 16, 21, 60, 104), (1, 3, 81, 480, 832)),
    ],
)
def test_video_shape(latent, video):
    assert GEOMETRY.video_shape(latent) == video


@pytest.mark.parametrize(
    ("latent", "complaint"),
    [
        ((1, 4, 3, 8, 8), "C is 4, but this decoder's latents have 16 channels"),
        ((0, 16, 3, 8, 8), "N is 0"),
        ((1, 16, 0, 8, 8), "T is 0"),
        ((1, 16, 3, 0, 8), "H is 0"),
        ((1, 16, 3, 8, -1), "W is -1"),
    ],
)
def test_a_latent_that_does_not_fit_is_named(latent, complaint):
    with pytest.raises(ValueError, match=complaint):
        GEOMETRY.video_shape(latent)
