import numpy as np

from converter.compare.pictures import MAX_FRAMES, MAX_SIDE, strip


def test_shows_both_and_the_amplified_difference():
    reference = np.zeros((1, 3, 2, 4, 6), np.float32)
    reference[0, 0, 1] = 0.5
    reference[0, 1, 0, 0, 0] = -1
    candidate = reference.copy()
    candidate[0, 2, 1, 1, 2] += np.float32(0.04)
    found = strip("y", reference, candidate)
    assert (found.output, found.total, found.gain) == ("y", 2, 10)  # 0.02 of the range 2; 0.2 fits
    second = found.frames[1]
    assert second.reference.shape == (4, 6, 3)
    assert tuple(second.reference[0, 0]) == (191, 128, 128)  # 0.5, 0, 0 in -1..1
    assert tuple(second.candidate[1, 2]) == (191, 128, 133)
    assert tuple(second.difference[1, 2]) == (0, 0, 51)
    assert second.difference.sum() == 51
    assert found.frames[0].difference.sum() == 0
    assert tuple(found.frames[0].reference[0, 0]) == (128, 0, 128)


def test_other_ranges_and_channels_are_stretched_to_grey():
    image = np.linspace(5, 9, 24, dtype=np.float32).reshape(1, 2, 3, 4)
    found = strip("y", image, image)
    (frame,) = found.frames
    assert found.gain == 1
    assert frame.reference[0, 0].tolist() == [0, 0, 0]
    assert len(set(frame.reference[2, 3].tolist())) == 1
    assert frame.reference.max() == 255


def test_size_and_number_are_bounded():
    video = np.zeros((1, 3, 100, 8, 600), np.float32)
    found = strip("y", video, video)
    assert len(found.frames) == MAX_FRAMES
    assert (found.frames[0].frame, found.frames[-1].frame, found.total) == (0, 99, 100)
    assert max(found.frames[0].reference.shape) <= MAX_SIDE


def test_what_is_no_number_is_shown_and_what_is_no_picture_is_not():
    video = np.ones((1, 1, 1, 3, 3), np.float32)
    broken = video.copy()
    broken[0, 0, 0, 1, 1] = np.nan
    (frame,) = strip("y", video, broken).frames
    assert frame.difference[1, 1].tolist() == [255, 255, 255]
    assert strip("y", np.ones(3), np.ones(3)) is None
    assert strip("y", video, np.ones((1, 1, 1, 3, 4), np.float32)) is None
