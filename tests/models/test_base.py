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


@pytest.mark.parametrize(
    ("frames", "formula"),
    [
        ("first alone", "(T - 1) * 4 + 1"),
        ("first alone if odd", "(T - 1) * 4 + 1 where T is odd, else T * 4"),
        ("every", "T * 4"),
    ],
)
def test_sizes_as_formulas(frames, formula):
    geometry = Geometry(16, 3, time=4, space=8, frames=frames)
    assert geometry.frame_rule() == formula
    assert geometry.rule() == f"T' = {formula}, H' = H * 8, W' = W * 8"


@pytest.mark.parametrize("frames", ["first alone", "first alone if odd", "every"])
@pytest.mark.parametrize("time", [1, 2, 6])
@pytest.mark.parametrize("t", [1, 2, 3, 4, 7])
def test_latent_shape_inverts_video_shape(frames, time, t):
    geometry = Geometry(16, 3, time=time, space=8, frames=frames)
    latent = (2, 16, t, 5, 7)
    assert geometry.latent_shape(geometry.video_shape(latent)) == latent


@pytest.mark.parametrize(
    ("frames", "taken", "complaint"),
    [
        ("first alone", [1, 5, 9, 13, 17], "1 more than a multiple of 4, as 1 is"),
        ("first alone if odd", [1, 8, 9, 16, 17], "a multiple of 8 or 1 more, as 1 is"),
        ("every", [4, 8, 12, 16], "a multiple of 4"),
    ],
)
def test_the_lengths_of_videos_that_are_taken(frames, taken, complaint):
    geometry = Geometry(16, 3, time=4, space=8, frames=frames)
    for t in range(18):
        if t in taken:
            geometry.latent_shape((1, 3, t, 8, 8))
        else:
            with pytest.raises(ValueError, match=f"T is {t}, but must be {complaint}"):
                geometry.latent_shape((1, 3, t, 8, 8))


@pytest.mark.parametrize(
    ("video", "complaint"),
    [
        ((1, 4, 9, 8, 8), "C is 4, but this encoder's videos have 3"),
        ((0, 3, 9, 8, 8), "N is 0"),
        ((1, 3, 9, 12, 8), "H is 12, but must be a multiple of 8"),
        ((1, 3, 9, 8, 0), "W is 0, but must be a multiple of 8"),
    ],
)
def test_a_video_that_does_not_fit_is_named(video, complaint):
    with pytest.raises(ValueError, match=complaint):
        GEOMETRY.latent_shape(video)


def test_a_latent_that_is_too_small_to_decode_is_not_encoded_to():
    geometry = Geometry(16, 3, time=4, space=8, least=2)
    with pytest.raises(ValueError, match="H is 1, but must be at least 2"):
        geometry.latent_shape((1, 3, 1, 8, 16))
