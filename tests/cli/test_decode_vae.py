"""`decode-vae` as a user runs it; the decoder is that of `stream_graphs`, small enough to read."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from converter.cli.decode_vae import main
from converter.runtime import Decoder, choose_tiles
from converter.runtime.tiles import Axis, Tiles
from tests import stream_graphs
from tests.cli.command import HERE, assert_refused
from tests.patience import PATIENCE, until
from tests.runtime.test_decoder import clip_of_bytes
from tests.test_video_file import psnr, read

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return stream_graphs.write(tmp_path_factory.mktemp("model") / "m.json", 2, dynamic=True)


def smooth(frames=7, seed=0):
    """A latent that changes slowly, so that its video is one that a codec is made for."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, stream_graphs.CHANNELS, 2, 2, 2, generator=generator)
    size = (frames, HEIGHT, WIDTH)
    return torch.nn.functional.interpolate(coarse, size, mode="trilinear").numpy() / 4


def decode_vae(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def command(*arguments):
    return [sys.executable, "-m", "converter.cli.decode_vae", *map(str, arguments)]


def process(*arguments, **options):
    return subprocess.run(
        command(*arguments), capture_output=True, cwd=HERE, timeout=PATIENCE, check=False, **options
    )


def expected(z):
    return stream_graphs.decode(z)


def pixels(video):
    return ((video[0].clip(-1, 1) + 1) * 127.5).round().transpose(1, 2, 3, 0)


def save(path, z):
    if path.suffix == ".npy":
        np.save(path, z)
    elif path.suffix == ".npz":
        np.savez(path, other=z[0], latents=z)
    elif path.suffix == ".safetensors":
        save_file({"x": z}, path)
    else:
        torch.save({"latent": torch.from_numpy(z).bfloat16()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_an_array_of_every_kind_of_latents(tmp_path, model, suffix):
    z = smooth()
    done = decode_vae(model, save(tmp_path / f"z{suffix}", z), tmp_path / "out.npy")
    assert done.exit_code == 0, done.stderr
    assert "out.npy, 7 frames in" in done.stdout
    video = np.load(tmp_path / "out.npy")
    if suffix == ".pt":
        z = torch.from_numpy(z).bfloat16().float().numpy()
    np.testing.assert_allclose(video, expected(z), rtol=0, atol=1e-5)
    assert sorted(os.listdir(tmp_path)) == sorted([f"z{suffix}", "out.npy"])


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_shows_the_frames(tmp_path, model, suffix):
    z = smooth(21)
    path = tmp_path / f"out{suffix}"
    assert decode_vae(model, save(tmp_path / "z.npy", z), path, "--fps", "24").exit_code == 0
    frames, rate = read(str(path))
    wanted = pixels(expected(z))
    assert frames.shape == wanted.shape
    assert float(rate) == pytest.approx(24, rel=1e-2)
    assert wanted.std() > 10
    # But for the border, where these convolutions' zeros make an edge of colours.
    inside = np.s_[:, 4:-4, 4:-4]
    assert min(psnr(*pair) for pair in zip(frames[inside], wanted[inside], strict=True)) > 40


def test_pictures_bytes_and_raw_frames_are_the_same(tmp_path, model):
    image = pytest.importorskip("PIL.Image")
    z = smooth()
    source = save(tmp_path / "z.npy", z)
    assert decode_vae(model, source, tmp_path / "frames").exit_code == 0
    assert decode_vae(model, source, tmp_path / "b.npy", "--uint8").exit_code == 0
    raw = process(model, source, "-")
    assert raw.returncode == 0
    assert raw.stderr == b""
    frames = np.frombuffer(raw.stdout, np.uint8).reshape(7, HEIGHT, WIDTH, 3)
    assert np.abs(frames - pixels(expected(z))).max() <= 1  # a half may round to either side
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy")[0], frames)
    for number, frame in enumerate(frames):
        picture = image.open(tmp_path / "frames" / f"{number:06d}.png")
        np.testing.assert_array_equal(np.asarray(picture), frame)


def test_a_reader_that_leaves(tmp_path, model):
    source = save(tmp_path / "z.npy", smooth(100))
    with subprocess.Popen(
        command(model, source, "-"), cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert len(running.stdout.read(1000)) == 1000
        running.stdout.close()
        assert running.wait(PATIENCE) == 2
        (line,) = running.stderr.read().decode().splitlines()
    assert line == "error: whoever read the frames has left."


def test_a_folder_goes_on_where_it_stopped(tmp_path, model):
    source, out = tmp_path / "latents", tmp_path / "videos"
    source.mkdir()
    for number in range(3):
        save(source / f"{number}.npy", smooth(3 + number))
    (source / "notes.txt").touch()
    out.mkdir()
    (out / "1.npy").write_text("finished")
    (out / "2.partial.npy").write_text("of a killed run")
    done = decode_vae(model, source, out, "--to", "npy")
    assert done.exit_code == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "written",
        "there already",
        "written",
    ]
    assert sorted(os.listdir(out)) == ["0.npy", "1.npy", "2.npy"]
    assert (out / "1.npy").read_text() == "finished"
    np.testing.assert_allclose(np.load(out / "2.npy"), expected(smooth(5)), rtol=0, atol=1e-5)
    done = decode_vae(model, source, out, "--to", "npy", "--overwrite", "--json")
    assert [one["frames"] for one in json.loads(done.stdout)] == [3, 4, 5]


def test_a_bad_file_of_a_folder_does_not_stop_the_others(tmp_path, model):
    source = tmp_path / "latents"
    source.mkdir()
    (source / "a.npy").write_bytes(b"no array")
    save(source / "b.npy", smooth())
    done = decode_vae(model, source, tmp_path / "out")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "a.npy is not a readable .npy file" in done.stderr
    assert os.listdir(tmp_path / "out") == ["b.mp4"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_is_resumed(tmp_path, end):
    model = stream_graphs.write(tmp_path / "m.json", 2, dynamic=True, wait=True)
    source, out = tmp_path / "latents", tmp_path / "out"
    source.mkdir()
    save(source / "a.npy", smooth(5))
    slow = stream_graphs.latent(2000)
    slow[:] = 3e5  # tenths of a second for each chunk
    save(source / "b.npy", slow)
    with subprocess.Popen(
        command(model, source, out), cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert b"a.mp4" in running.stdout.readline()
        until((out / "b.partial.mp4").exists)
        running.send_signal(end)
        try:
            complaint = running.communicate(timeout=PATIENCE)[1].decode()
        finally:
            running.kill()
    if end == signal.SIGKILL:
        assert sorted(os.listdir(out)) == ["a.mp4", "b.partial.mp4"]
    else:
        assert running.returncode == 2
        assert complaint == (
            "error: interrupted; 1 of 2 videos are finished; the same command goes on with the "
            "others.\n"
        )
        assert os.listdir(out) == ["a.mp4"]
    before = (out / "a.mp4").stat().st_mtime_ns
    save(source / "b.npy", smooth(9))
    assert decode_vae(model, source, out).exit_code == 0
    assert sorted(os.listdir(out)) == ["a.mp4", "b.mp4"]
    assert (out / "a.mp4").stat().st_mtime_ns == before
    assert len(read(str(out / "b.mp4"))[0]) == 9


LIMIT = 100_000


def full_disk():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def test_a_full_disk_keeps_the_frames_before_it(tmp_path, model):
    noise = np.random.default_rng(0).standard_normal((1, 8, 99, HEIGHT, WIDTH)).astype("f4")
    source = save(tmp_path / "z.npy", noise)
    done = process(model, source, tmp_path / "out.mp4", preexec_fn=full_disk)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: File too large; ")
    assert sorted(os.listdir(tmp_path)) == ["out.partial.mp4", "z.npy"]
    frames, _ = read(str(tmp_path / "out.partial.mp4"))
    assert 10 < len(frames) < 99
    wanted = pixels(expected(noise))
    # Noise in colour of half the resolution: far from 40 dB, but each frame is like no other.
    for number, frame in enumerate(frames):
        assert np.argmax([psnr(frame, other) for other in wanted]) == number


def test_a_full_disk_leaves_no_half_array(tmp_path, model):
    source = save(tmp_path / "z.npy", smooth(40))
    done = process(model, source, tmp_path / "out.npy", preexec_fn=full_disk)
    assert done.returncode == 2
    assert b"File too large" in done.stderr
    assert os.listdir(tmp_path) == ["z.npy"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: p / "none.npy", "none.npy does not exist or is not a file"),
        (lambda p: save(p / "z.npy", smooth()[0]), "array of shape (8, 7, 64, 96); a latent is"),
        (lambda p: save(p / "z.npy", smooth()[:, :4]), "z.npy: the latent has 4 on C"),
        (lambda p: save(p / "z.npy", smooth().astype(int)), "z.npy: the latent is int64"),
        (lambda p: save(p / "z.npy", smooth() * np.float32("nan")), "z.npy: the latent has values"),
        (lambda p: save(p / "z.npy", smooth()[:, :, :0]), "z.npy: a latent is (N, C, T, H, W)"),
        (lambda p: cut(save(p / "z.npy", smooth())), "z.npy is not a readable .npy file"),
        (lambda p: cut(save(p / "z.npz", smooth())), "z.npz is not a readable .npz file"),
        (lambda p: cut(save(p / "z.safetensors", smooth())), "is not a readable .safetensors"),
        (lambda p: cut(save(p / "z.pt", smooth())), "z.pt is not a readable .pt file"),
        (lambda p: p, "holds no file of .npy, .npz"),
    ],
)
def test_bad_latents(tmp_path, model, make, complaint):
    source = make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert_refused(decode_vae(model, source, tmp_path / "out.mp4"), complaint)
    assert sorted(os.listdir(tmp_path)) == before


def test_several_arrays_and_none_of_a_known_name(tmp_path, model):
    z = smooth()
    np.savez(tmp_path / "z.npz", one=z, two=z)
    arguments = (model, tmp_path / "z.npz", tmp_path / "out.npy")
    assert_refused(decode_vae(*arguments), "holds 'one', 'two': say by --name")
    assert_refused(decode_vae(*arguments, "--name", "three"), "holds no 'three'")
    assert decode_vae(*arguments, "--name", "two").exit_code == 0


@pytest.mark.parametrize("suffix", [".first.onnx", ".next.onnx", ".data"])
@pytest.mark.parametrize("harm", ["moved", "changed"])
def test_a_manifest_whose_files_are_not_its_own(tmp_path, suffix, harm):
    path = stream_graphs.write(tmp_path / "m.json")
    victim = path.with_suffix(suffix)
    if harm == "moved":
        victim.rename(tmp_path / "elsewhere")
    else:
        victim.write_bytes(victim.read_bytes()[:-1] + b"\1")
    complaint = "which is missing" if harm == "moved" else "it has changed since"
    save(tmp_path / "z.npy", smooth())
    done = decode_vae(path, tmp_path / "z.npy", tmp_path / "out.mp4")
    assert_refused(done, complaint)
    assert victim.name in done.stderr
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["out.avi"], "out.avi is none of .mp4, .webm, .npy, a folder, or -"),
        (["none/out.mp4"], "the folder of none/out.mp4 does not exist"),
        (["there.mp4"], "there.mp4 exists; give --overwrite to replace it"),
        (["out.mp4", "--fps", "0"], "--fps 0 is not between 0 and 1000"),
        (["out.mp4", "--fps", "fast"], "--fps fast is not a number"),
        (["out.mp4", "--fps", "1/0"], "--fps 1/0 is not a number"),
    ],
)
def test_bad_usage(tmp_path, model, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "z.npy", smooth())
    (tmp_path / "there.mp4").write_text("old")
    assert_refused(decode_vae(model, "z.npy", *arguments), complaint)
    assert sorted(os.listdir(tmp_path)) == ["there.mp4", "z.npy"]
    assert (tmp_path / "there.mp4").read_text() == "old"


def test_a_folder_cannot_go_to_stdout(tmp_path, model):
    assert_refused(decode_vae(model, tmp_path, "-"), "a folder of latents cannot go to stdout")


def test_two_latents_of_one_name(tmp_path, model):
    for suffix in (".npy", ".npz"):
        save(tmp_path / f"z{suffix}", smooth())
    assert_refused(decode_vae(model, tmp_path, tmp_path / "out"), "would become one video")


def test_an_existing_video_is_replaced_when_that_is_asked_for(tmp_path, model):
    save(tmp_path / "z.npy", smooth())
    (tmp_path / "out.npy").write_text("old")
    done = decode_vae(model, tmp_path / "z.npy", tmp_path / "out.npy", "--overwrite", "-q")
    assert (done.exit_code, done.output) == (0, "")
    assert np.load(tmp_path / "out.npy").shape == (1, 3, 7, HEIGHT, WIDTH)


def test_tiles_of_a_size(tmp_path, model):
    z = smooth()
    source = save(tmp_path / "z.npy", z)
    done = decode_vae(model, source, tmp_path / "out.npy", "--tile", "32x48", "--overlap", 8)
    assert done.exit_code == 0, done.stderr
    video = np.load(tmp_path / "out.npy")
    tiles = Tiles(Axis(32, 24), Axis(48, 40), space=1)
    np.testing.assert_array_equal(video, Decoder(model, "cpu", tiles=tiles).decode(z))
    assert np.abs(video - expected(z)).max() > 1e-3


def test_tiles_by_themselves_where_memory_is_short(tmp_path, model, monkeypatch):
    source = save(tmp_path / "z.npy", smooth())
    tiles = Tiles(Axis(32, 24), Axis(48, 40), space=1)
    monkeypatch.setattr(choose_tiles, "upstream_tiles", lambda origin: tiles)
    look = choose_tiles.look
    monkeypatch.setattr(
        "converter.cli.decode_vae.look", lambda path: replace(look(path), origin=object())
    )
    free = look(model).need(smooth().shape) - 1
    monkeypatch.setattr(choose_tiles, "available_bytes", lambda: free)
    done = decode_vae(model, source, tmp_path / "out.npy")
    assert done.exit_code == 0
    assert done.stderr.startswith("note: whole frames would take about ")
    assert "tiles of 32x48" in done.stderr
    expected_video = Decoder(model, "cpu", tiles=tiles).decode(smooth())
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected_video)


def test_bad_tiles(tmp_path, model):
    arguments = (model, save(tmp_path / "z.npy", smooth()), tmp_path / "out.npy")
    assert_refused(decode_vae(*arguments, "--tile", "small"), "--tile small is none of")
    assert_refused(decode_vae(*arguments, "--overlap", 8), "--overlap is for --tile HxW")
    assert_refused(decode_vae(*arguments, "--tile", "upstream"), "does not say what it was made of")


def test_a_decoder_of_bytes(tmp_path):
    path = clip_of_bytes(tmp_path / "m.onnx")
    source = save(tmp_path / "z.npy", 40 + 100 * np.abs(smooth()))
    arguments = (path, source, tmp_path / "out.npy")
    assert_refused(decode_vae(*arguments), "this decoder makes bytes, not floats: give --uint8")
    assert decode_vae(*arguments, "--uint8").exit_code == 0
    assert np.load(tmp_path / "out.npy").shape == (1, 7, HEIGHT, WIDTH, 3)
    assert decode_vae(path, source, tmp_path / "out.mp4").exit_code == 0
    assert len(read(str(tmp_path / "out.mp4"))[0]) == 7
