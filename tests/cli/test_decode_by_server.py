"""`decode-vae --server`: what it writes is what `decode-vae` with the same model writes."""

import os
import socket

import numpy as np
import pytest

from converter.serving.access import Access
from converter.serving.model import open_model
from tests import small_models, stream_graphs
from tests.cli.command import assert_refused
from tests.cli.test_decode_vae import HEIGHT, WIDTH, decode_vae, process, save, smooth
from tests.runtime.test_decoder import clip_of_bytes
from tests.serving.running import running
from tests.test_video_file import read

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("served")
    stream_graphs.write(made / "wan.json", 2, dynamic=True)
    clip_of_bytes(made / "bytes.onnx")
    small_models.save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), made / "vae.onnx")
    (made / "token").write_text(f"{TOKEN}\n")
    return made


@pytest.fixture(scope="module")
def url(folder):
    files = ("wan.json", "bytes.onnx", "vae.onnx")
    models = [open_model(folder / file, provider="cpu") for file in files]
    with running(models, access=Access(TOKEN)) as serving:
        yield f"http://127.0.0.1:{serving.http_port}"


@pytest.fixture
def at(url, folder):
    return ("--server", url, "--token-file", folder / "token")


@pytest.mark.parametrize(
    ("out", "options"), [("a.npy", ()), ("a.npy", ("--uint8",)), ("a.mp4", ("--fps", "24"))]
)
def test_files_are_the_same(tmp_path, folder, at, out, options):
    source = save(tmp_path / "z.npy", smooth())
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = decode_vae(folder / "wan.json", source, tmp_path / "here" / out, *options)
    assert here.exit_code == 0, here.stderr
    there = decode_vae("wan", source, tmp_path / "there" / out, *options, *at)
    assert there.exit_code == 0, there.stderr
    assert f"{out}, 7 frames in" in there.stdout
    wanted, made = (tmp_path / name / out for name in ("here", "there"))
    if made.suffix == ".mp4":  # of the same frames, x264's bytes may depend on its heap
        videos = [read(str(path)) for path in (made, wanted)]
        assert videos[0][1] == videos[1][1] == 24
        assert len(videos[0][0]) == len(videos[1][0]) == 7
        assert np.square(videos[0][0] - videos[1][0].astype(float)).mean() < 1
    else:
        assert made.read_bytes() == wanted.read_bytes()
    if not options:
        np.testing.assert_allclose(np.load(made), stream_graphs.decode(smooth()), rtol=0, atol=1e-5)
    assert os.listdir(tmp_path / "there") == [out]


def test_raw_frames(tmp_path, folder, at):
    source = save(tmp_path / "z.npy", smooth())
    raw = process("wan", source, "-", *at)
    assert (raw.returncode, raw.stderr) == (0, b"")
    assert raw.stdout == process(folder / "wan.json", source, "-").stdout
    assert len(raw.stdout) == 7 * HEIGHT * WIDTH * 3


def test_a_latent_of_bfloat16_is_widened(tmp_path, at):
    source = save(tmp_path / "z.pt", smooth())
    done = decode_vae("wan", source, tmp_path / "out.npy", *at)
    assert done.exit_code == 0, done.stderr
    assert np.load(tmp_path / "out.npy").shape == (1, 3, 7, HEIGHT, WIDTH)


def test_a_folder_tells_of_what_is_refused_and_goes_on(tmp_path, at):
    source = tmp_path / "latents"
    source.mkdir()
    save(source / "a.npy", smooth()[:, :4])
    save(source / "b.npy", smooth())
    done = decode_vae("wan", source, tmp_path / "out", "--to", "npy", *at)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "a.npy: http://" in line
    assert "answers 400: the input 'latent' is of shape [1, 4, 7, 64, 96]" in line
    assert os.listdir(tmp_path / "out") == ["b.npy"]


def test_what_is_refused(tmp_path, url, at, folder):
    source = save(tmp_path / "z.npy", smooth())
    out = tmp_path / "out.npy"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for arguments, complaint in [
        (("nobody", source, out, *at), "404: there is no model 'nobody' here"),
        (("wan", source, out, "--server", url), "401: this server needs the header"),
        (("wan", source, out, "--server", nobody), "does not answer after 2 tries"),
        (("wan", source, out, "--server", "127.0.0.1:8000"), "is no address such as"),
        (("wan", source, out, "--server", "http://h:x"), "is no address such as"),
        (("wan", source, out, *at, "--tile", "none"), "the tiles are the server's"),
        (("wan", source, out, *at, "--provider", "cpu"), "the tiles are the server's"),
        (("wan", source, out, *at, "--strict-provider"), "the tiles are the server's"),
        ((folder / "wan.json", source, out, *at[2:]), "--token-file is for --server"),
        (("wan", source, out, *at[:2], "--token-file", source), "cannot be read as a token"),
        (("vae", source, out, *at), "answers 400: vae is no decoder"),
        (("wan", save(tmp_path / "n.npy", smooth() * np.float32("nan")), out, *at), "not finite"),
    ]:
        assert_refused(decode_vae(*arguments), complaint)
        assert not out.exists()


def test_a_clip_of_bytes(tmp_path, folder, at):
    source = save(tmp_path / "z.npy", 40 + 100 * np.abs(smooth()))
    assert_refused(decode_vae("bytes", source, tmp_path / "out.npy", *at), "give --uint8")
    done = decode_vae("bytes", source, tmp_path / "out.npy", "--uint8", *at)
    assert done.exit_code == 0, done.stderr
    expected = np.load(source)[:, :3].astype(np.uint8).transpose(0, 2, 3, 4, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
