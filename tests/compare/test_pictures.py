from dataclasses import replace

import numpy as np
import pytest

from converter.compare.detail import detail
from converter.compare.diff_result import OutputVerdict
from converter.compare.pictures import (
    MAX_FRAMES,
    MAX_PIXELS,
    MAX_SIDE,
    affordable,
    choose_frames,
    look,
    strip,
    visible,
)
from converter.compare.showing import Shown


def shown(reference, candidate, frames=(0,)):
    found = look(detail("y", reference, candidate, frames=False))
    return strip("y", 0, (reference, candidate), found, frames)


def test_shows_both_and_the_amplified_difference():
    reference = np.zeros((1, 3, 2, 4, 6), np.float32)
    reference[0, 0, 1] = 0.5
    reference[0, 1, 0, 0, 0] = -1
    candidate = reference.copy()
    candidate[0, 2, 1, 1, 2] += np.float32(0.04)
    found = shown(reference, candidate, (0, 1))
    # 0.04 of the range 2 is 0.02; interpolated, 99.9 % of 144 errors are within 0.857 of that.
    assert (found.output, found.feed, found.total, found.gain) == ("y", 0, 2, 50)
    second = found.frames[1]
    assert second.reference.shape == (4, 6, 3)
    assert tuple(second.reference[0, 0]) == (191, 128, 128)  # 0.5, 0, 0 in -1..1
    assert tuple(second.candidate[1, 2]) == (191, 128, 133)
    assert tuple(second.difference[1, 2]) == (0, 0, 255)  # 0.02 * 50 = 1
    assert second.difference.sum() == 255
    assert found.frames[0].difference.sum() == 0
    assert tuple(found.frames[0].reference[0, 0]) == (128, 0, 128)


@pytest.mark.parametrize(
    ("error", "gain"), [(2.0, 1), (0.9, 2), (0.5, 2), (0.39, 5), (0.19, 10), (0.0021, 500), (3, 1)]
)
def test_the_gain_is_a_round_number(error, gain):
    reference = np.zeros((1, 3, 2, 8, 8), np.float32)
    reference[0, 0, 0, 0, :2] = -1, 1  # a range of 2
    assert shown(reference, reference + np.float32(error)).gain == gain


def test_what_is_beyond_the_range_is_white_or_black():
    reference = np.zeros((1, 3, 1, 2, 2), np.float32)
    reference[0, 0, 0, 0] = -1, 1
    candidate = reference.copy()
    candidate[0, :, 0, 1] = 1.5, -4
    (frame,) = shown(reference, candidate).frames
    assert frame.candidate[1].tolist() == [[255] * 3, [0] * 3]
    assert frame.difference[1].tolist() == [[191] * 3, [255] * 3]  # 1.5 and 4 of the range of 2


def test_a_constant_is_black_and_what_is_one_more_is_white():
    reference = np.full((1, 1, 1, 2, 2), 5, np.float32)
    (frame,) = shown(reference, reference + np.float32(0.25)).frames
    assert np.unique(frame.reference).tolist() == [0]
    assert np.unique(frame.candidate).tolist() == [64]


@pytest.mark.parametrize(
    ("low", "high", "level"),
    [(-0.1, 0.9, 115), (-0.9, 0.1, 13), (0, 1, 0), (-1.2, 0, 0), (-0.1, 0.1, 0)],
)
def test_pixels_of_about_one_are_shown_from_minus_one_to_one(low, high, level):
    image = np.float32([low, high]).reshape(1, 1, 1, 2)
    assert shown(image, image).frames[0].reference[0, 0, 0] == level


def test_other_ranges_and_channels_are_stretched_to_grey():
    image = np.linspace(5, 9, 24, dtype=np.float32).reshape(1, 2, 3, 4)
    found = shown(image, image)
    (frame,) = found.frames
    assert found.gain == 1
    assert frame.reference[0, 0].tolist() == [0, 0, 0]
    assert len(set(frame.reference[2, 3].tolist())) == 1
    assert frame.reference[2, 3, 0] == 122  # the first channel ends at (11 / 23) of the range


def test_large_frames_are_averaged_and_their_largest_difference_kept():
    side = MAX_SIDE + 2
    reference = np.full((1, 3, 1, side, side), -1, np.float32)
    reference[..., 1::2] = 1  # columns in turn
    candidate = reference.copy()
    candidate[0, :, 0, 0, 0] = 1
    (frame,) = shown(reference, candidate).frames
    assert frame.reference.shape == (side // 2, side // 2, 3)
    assert np.unique(frame.reference).tolist() == [128]
    assert (frame.candidate[0, 0, 0], frame.difference[0, 0, 0]) == (191, 255)
    assert frame.difference.sum() == 3 * 255
    tall = reference[..., :20]
    assert shown(tall, tall).frames[0].reference.shape == (side // 2, 10, 3)


def test_frames_are_chosen_evenly_with_the_worst_among_them():
    assert choose_frames(5, 24) == [0, 1, 2, 3, 4]
    assert choose_frames(100, 3) == [0, 50, 99]
    assert choose_frames(100, 3, [7]) == [0, 7, 50]
    assert choose_frames(100, 1, [7, 9]) == [7]
    assert choose_frames(1, 9, [0]) == [0]


def test_the_number_of_pictures_is_bounded():
    small, large = np.zeros((1, 3, 100, 8, 8)), np.zeros((1, 3, 9, 600, 600))
    assert affordable(small, 3) == MAX_FRAMES
    assert affordable(large, 3) == MAX_PIXELS // (3 * 600 * 600)
    assert affordable(large, 1000) == 1
    halved = np.zeros((1, 3, 9, 2 * MAX_SIDE, 2 * MAX_SIDE))
    assert affordable(halved, 3) == MAX_PIXELS // (3 * MAX_SIDE**2)


def test_what_is_no_number_is_shown_and_what_is_no_picture_is_not():
    video = np.ones((1, 1, 1, 3, 3), np.float32)
    broken = video.copy()
    broken[0, 0, 0, 1, 1] = np.nan
    (frame,) = shown(video, broken).frames
    assert frame.difference[1, 1].tolist() == [255, 255, 255]
    assert frame.difference.sum() == 3 * 255
    (same,) = shown(broken, broken).frames
    assert same.difference.sum() == 0
    for one, two in ((np.ones(3), np.ones(3)), (video, np.ones((1, 1, 1, 3, 4), np.float32))):
        assert look(detail("y", one, two, frames=False)) is None


def test_an_image_is_one_frame():
    image = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    np.testing.assert_array_equal(visible(image, 0), image[0])
    video = np.arange(48, dtype=np.float32).reshape(1, 3, 2, 2, 4)
    np.testing.assert_array_equal(visible(video, 1), video[0, :, 1])


@pytest.mark.parametrize(("broken", "worst"), [(None, 2), (0, 0), (1, 1), (3, 3)])
def test_the_worst_frame_is_of_the_first_sample_and_one_not_finite_before_all(broken, worst):
    pytest.importorskip("skimage")
    reference = np.zeros((2, 3, 4, 5, 5), np.float32)
    candidate = reference + np.float32([1, 2, 4, 3])[:, None, None]
    candidate[1, :, 1] = 9
    if broken is not None:
        candidate[0, 0, broken, 0, 0] = np.nan
    verdict = OutputVerdict(0, "y", detail("y", reference, candidate), None, ())
    one = Shown(0, verdict, reference, candidate, look(verdict.detail))
    assert one.worst_frame == worst
    without = detail("y", reference, candidate, frames=False)
    assert replace(one, verdict=replace(verdict, detail=without)).worst_frame is None
