import io

import numpy as np
import pytest

from converter.runtime.outputs import FOLDER, Format, partial_path, raw, writing
from tests.test_video_file import psnr, read, smooth

FRAMES = smooth(9, 32, 48)
FLOATS = (FRAMES.transpose(3, 0, 1, 2)[None] / np.float32(127.5) - 1).astype(np.float32)


def chunks(video, axis):
    return np.split(video, [1, 5], axis)


def write_three(path, form, error):
    with writing(path, form, 9) as output:
        output.write(FRAMES[None, :3])
        raise error


@pytest.mark.parametrize("kind", [".mp4", ".webm", FOLDER, ".npy"])
def test_a_name_that_is_there_is_finished(tmp_path, kind):
    path = tmp_path / f"out{'' if kind == FOLDER else kind}"
    with writing(path, Format(kind, uint8=True), 9) as output:
        for chunk in chunks(FRAMES[None], 1):
            output.write(chunk)
            assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if kind == ".npy":
        np.testing.assert_array_equal(np.load(path)[0], FRAMES)
    elif kind == FOLDER:
        image = pytest.importorskip("PIL.Image")
        names = sorted(p.name for p in path.iterdir())
        assert names == [f"{number:06d}.png" for number in range(9)]
        back = np.stack([np.asarray(image.open(path / name)) for name in names])
        np.testing.assert_array_equal(back, FRAMES)
    else:
        assert psnr(read(str(path))[0], FRAMES) > 40


@pytest.mark.parametrize("frames", [9, None])
def test_floats_are_written_in_place(tmp_path, frames):
    with writing(tmp_path / "out.npy", Format(".npy"), frames) as output:
        for chunk in chunks(FLOATS, 2) if frames else [FLOATS]:
            output.write(chunk)
    made = np.load(tmp_path / "out.npy")
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, FLOATS)


@pytest.mark.parametrize("kind", [".mp4", FOLDER, ".npy"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_one_leaves_nothing(tmp_path, kind, error):
    path = tmp_path / f"out{'' if kind == FOLDER else kind}"
    with pytest.raises(error):
        write_three(path, Format(kind, uint8=True), error)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "out"
    for number in (9, 4):
        with writing(path, Format(FOLDER), number) as output:
            output.write(FRAMES[None, :number])
    assert len(list(path.iterdir())) == 4


def test_the_rest_of_a_killed_run_is_replaced(tmp_path):
    path = tmp_path / "out"
    partial_path(path).mkdir()
    (partial_path(path) / "000099.png").touch()
    with writing(path, Format(FOLDER), 2) as output:
        output.write(FRAMES[None, :2])
    assert sorted(p.name for p in path.iterdir()) == ["000000.png", "000001.png"]


@pytest.mark.parametrize(("kind", "stays"), [(FOLDER, True), (".mp4", True), (".npy", False)])
def test_an_error_of_the_disk_keeps_what_can_be_watched(tmp_path, kind, stays):
    path = tmp_path / f"out{'' if kind == FOLDER else kind}"
    with pytest.raises(OSError, match="disk"):
        write_three(path, Format(kind, uint8=True), OSError("disk"))
    assert [p.name for p in tmp_path.iterdir()] == ([partial_path(path).name] if stays else [])


def test_raw_frames():
    pipe = io.BytesIO()
    output = raw(pipe)
    for chunk in chunks(FRAMES[None], 1):
        output.write(chunk)
    np.testing.assert_array_equal(np.frombuffer(pipe.getvalue(), np.uint8), FRAMES.ravel())
