"""The video of a comparison, read back by PyAV's decoder."""

import numpy as np
import pytest
from click.testing import CliRunner

from converter.cli.diff_vae import main
from converter.compare.side_by_side import CAPTION, GAP

av = pytest.importorskip("av")
pytest.importorskip("PIL.Image")
pytest.importorskip("skimage")

HEIGHT, WIDTH = 64, 240


def diff_vae(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def clip(shift: float, width: int = WIDTH) -> np.ndarray:
    """Two samples of three frames of plain colours, redder in each frame; the second is unused."""
    video = np.zeros((2, 3, 3, HEIGHT, width), np.float32)
    for frame in range(3):
        video[0, 0, frame] = -0.8 + 0.5 * frame
    video[0, 1] = shift
    video[0, :, 0, 0, 0] = -1, 1, 0  # the range of pixels
    return video


def saved(path, *videos):
    names = ["video", "feed1/video"]
    np.savez(path, **dict(zip(names, videos, strict=False)))
    return path


def read(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_a_row_a_candidate_with_reference_candidate_and_difference(tmp_path):
    reference = saved(tmp_path / "r.npz", clip(0.0), clip(0.5))
    near = saved(tmp_path / "near.npz", clip(0.09), clip(0.5))
    far = saved(tmp_path / "far.npz", clip(0.39), clip(-0.5))
    done = diff_vae(reference, near, far, "--video", tmp_path / "out.mp4")
    assert done.exit_code == 1
    frames = read(tmp_path / "out.mp4")
    assert frames.shape == (6, 2 * (HEIGHT + CAPTION), 3 * WIDTH + 2 * GAP, 3)
    for number, frame in enumerate(frames):
        red = (-0.8 + 0.5 * (number % 3) + 1) / 2 * 255
        base = (0.0, 0.5)[number // 3]
        greens = [(base, near, gain) for near, gain in ((0.09, 20), (0.39, 5))]
        if number >= 3:
            greens = [(base, 0.5, 1), (base, -0.5, 2)]
        for row, (one, two, gain) in enumerate(greens):
            y = row * (HEIGHT + CAPTION) + CAPTION + HEIGHT // 2
            found = [frame[y, n * (WIDTH + GAP) + WIDTH // 2].astype(float) for n in range(3)]
            error = min(255, abs(two - one) / 2 * gain * 255)
            expected = [
                [red, (one + 1) / 2 * 255, 127.5],
                [red, (two + 1) / 2 * 255, 127.5],
                [0, error, 0],
            ]
            # Of H.264's 8-bit YCbCr, a few steps remain on plain areas.
            np.testing.assert_allclose(found, expected, atol=6)


def test_small_frames_are_enlarged_so_that_captions_fit(tmp_path):
    reference = saved(tmp_path / "r.npz", clip(0.0, width=50))
    assert diff_vae(reference, reference, "--video", tmp_path / "out.webm").exit_code == 0
    assert read(tmp_path / "out.webm").shape[1:3] == (5 * HEIGHT + CAPTION, 15 * 50 + 2 * GAP)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("out.avi", "the form must be one of .mp4, .webm"),
        ("missing/out.mp4", "the folder does not exist"),
    ],
)
def test_where_no_video_can_be_is_known_before_anything_runs(tmp_path, name, complaint):
    done = diff_vae("missing.onnx", "missing.onnx", "--video", tmp_path / name)
    assert done.exit_code == 2
    assert complaint in done.stderr


def test_what_is_no_video_is_refused_and_leaves_no_file(tmp_path):
    plain = saved(tmp_path / "r.npz", np.ones((3, 4), np.float32))
    sizes = saved(tmp_path / "s.npz", clip(0.0), clip(0.0, width=50))
    for path, complaint in ((plain, "needs an output with frames"), (sizes, "50x64")):
        done = diff_vae(path, path, "--video", tmp_path / "out.mp4")
        assert done.exit_code == 2
        assert complaint in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.npz", "s.npz"]
