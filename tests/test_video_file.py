"""Videos read back by PyAV's decoder and compared with the frames that were written."""

import io
import resource
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from converter.errors import UserError
from converter.video_file import SUFFIXES, Encoding, VideoWriter, to_uint8

av = pytest.importorskip("av")


def smooth(frames: int, height: int, width: int) -> np.ndarray:
    """A moving picture whose colours change slowly in space, as those of a camera do."""
    t, y, x = np.mgrid[0:frames, 0:height, 0:width]
    waves = [np.sin(x / 40 + t / 9), np.cos(y / 50 - t / 7), np.sin((x + y) / 60 + t / 5)]
    return np.stack([127 + 100 * wave for wave in waves], -1).round().astype(np.uint8)


def read(source) -> tuple[np.ndarray, Fraction]:
    with av.open(source) as container:
        rate = container.streams.video[0].average_rate
        frames = []
        try:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
        except av.error.InvalidDataError:  # a cut file: what precedes the cut counts
            pass
    return np.stack(frames), rate


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((one.astype(np.float64) - two) ** 2))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_frame_comes_back(tmp_path, suffix):
    frames = smooth(21, 48, 64)
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, Encoding(fps=Fraction(24000, 1001))) as writer:
        for start in range(0, 21, 4):
            writer.write(frames[start : start + 4])
    back, rate = read(str(path))
    assert back.shape == frames.shape
    assert float(rate) == pytest.approx(24000 / 1001, rel=1e-3)  # webm counts in milliseconds
    assert min(psnr(*pair) for pair in zip(back, frames, strict=True)) > 40


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_object_that_only_writes(suffix):
    frames = smooth(9, 32, 32)
    whole = io.BytesIO()

    class Pipe:
        def write(self, part) -> int:
            return whole.write(part)

    with VideoWriter(Pipe(), suffix=suffix) as writer:
        writer.write(frames)
    whole.seek(0)
    assert psnr(read(whole)[0], frames) > 40


def test_odd_sizes_repeat_their_last_row_and_column(tmp_path):
    frames = smooth(3, 33, 47)
    with VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(frames)
    back, _ = read(str(tmp_path / "out.mp4"))
    assert back.shape == (3, 34, 48, 3)
    assert psnr(back[:, :33, :47], frames) > 40
    assert psnr(back[:, 33, :47], frames[:, 32]) > 35


def test_a_smaller_crf_is_nearer(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8).repeat(3, axis=3)
    near = []
    for crf in (1, 40):
        with VideoWriter(tmp_path / "out.mp4", Encoding(crf=crf)) as writer:
            writer.write(noise)
        near.append(psnr(read(str(tmp_path / "out.mp4"))[0], noise))
    assert near[0] > near[1] + 10


FULL_DISK = """
import sys
from pathlib import Path
import numpy as np
from converter.video_file import VideoWriter
noise = np.random.default_rng(0).integers(0, 256, (400, 64, 64, 3), np.uint8)
try:
    with VideoWriter(Path(sys.argv[1])) as writer:
        for frame in noise:
            writer.write(frame[None])
except OSError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_before_the_disk_was_full_plays(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path],
        preexec_fn=small_disk,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["OSError", "27"]
    back, _ = read(str(path))
    noise = np.random.default_rng(0).integers(0, 256, (400, 64, 64, 3), np.uint8)
    assert 16 <= len(back) < 400
    for number in (0, 10):  # the frame that stands there is that one, and no other
        others = [psnr(back[number], noise[other]) for other in range(12) if other != number]
        assert psnr(back[number], noise[number]) > max(others) + 3


def test_floats_become_bytes_as_diffusers_does():
    video_processor = pytest.importorskip("diffusers.video_processor")
    torch = pytest.importorskip("torch")
    frames = np.random.default_rng(0).uniform(-1.3, 1.3, (3, 2, 5, 4)).astype(np.float32)
    processor = video_processor.VideoProcessor(vae_scale_factor=8)
    theirs = processor.postprocess_video(torch.from_numpy(frames[None]), output_type="np")[0]
    assert np.array_equal(to_uint8(frames), (theirs * 255).round().astype(np.uint8))


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"out\.avi is none of \.mp4, \.webm\."):
        VideoWriter(tmp_path / "out.avi")
