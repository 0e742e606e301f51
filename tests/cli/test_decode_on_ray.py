"""`decode-vae --ray`: what it writes is what `decode-vae` writes, and a killed run goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests import stream_graphs
from tests.cli.command import HERE, assert_refused
from tests.cli.test_decode_vae import command, decode_vae, save, smooth
from tests.loopback import loopback_only
from tests.patience import PATIENCE, until
from tests.ray_processes import TWO_CORES, children, need_ray, only_one, running

need_ray()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.json"
    return stream_graphs.write(path, 2, dynamic=True, wait=True)


@pytest.fixture
def temporary():
    """A folder for temporary files, short as Ray's sockets need it."""
    folder = tempfile.mkdtemp(prefix="t", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


def start(home, temporary, *arguments):
    return subprocess.Popen(
        [*command(*arguments), "--ray", "--provider", "cpu"],
        cwd=HERE,
        env={**os.environ, **TWO_CORES, "TMPDIR": temporary, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "end", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_run_that_was_stopped_is_resumed_and_the_videos_are_the_same(
    tmp_path, model, temporary, end
):
    source, here, there = (tmp_path / name for name in ("latents", "here", "there"))
    source.mkdir()
    for name, frames in (("a", 5), ("c", 6), ("d", 7)):
        save(source / f"{name}.npy", smooth(frames))
    endless = smooth(8)
    endless[:, :, 4:] = 1e18
    save(source / "b.npy", endless)
    # Ray decodes in any order: what is surely finished before b.npy is begun is none of its work.
    there.mkdir()
    assert decode_vae(model, source / "a.npy", there / "a.npy").exit_code == 0
    before = (there / "a.npy").stat().st_mtime_ns
    arguments = (model, source, there, "--to", "npy")
    with only_one(), loopback_only():
        process = start(tmp_path, temporary, *arguments)
        try:
            until(lambda: (there / "b.partial.npy").exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            # Of a killed run Ray's own agents need half a minute to see that they are alone.
            ours = children(process.pid, "ray::Map" if end == signal.SIGKILL else "ray")
            assert ours
        finally:
            process.send_signal(end)
        if end == signal.SIGKILL:  # As the machine's end would; they compute on for seconds.
            for pid in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), end)
        output, complaint = process.communicate(timeout=PATIENCE)
        until(lambda: not running(ours))
        finished = {path.name for path in there.glob("?.npy")}
        assert "b.npy" not in finished
        if end == signal.SIGKILL:
            assert (there / "b.partial.npy").exists()
        else:
            assert process.returncode == 2
            assert complaint.splitlines()[-1] == (
                f"error: interrupted; {1 + output.count('written')} of 4 videos are finished; "
                "the same command goes on with the others."
            )
            assert sorted(os.listdir(there)) == sorted(finished)
            assert set(os.listdir(temporary)) <= {".ses"}

        save(source / "b.npy", smooth(8))
        (source / "bad.npy").write_bytes(b"no array")
        process = start(tmp_path, temporary, *arguments, "--json", "--replicas", 2)
        output, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    # Of Ray's own parts in C++, one warns that it finds no address but loopback, and one of actors.
    (line,) = [line for line in complaint.splitlines() if not line.startswith("[")]
    assert line.startswith("error: ")
    assert "bad.npy is not a readable .npy file" in line
    done = {Path(one["output"]).stem: one["frames"] for one in json.loads(output)}
    left = {"a": 5, "b": 8, "c": 6, "d": 7}
    assert done == {name: 0 if f"{name}.npy" in finished else left[name] for name in left}
    assert (there / "a.npy").stat().st_mtime_ns == before
    (source / "bad.npy").unlink()
    assert decode_vae(model, source, here, "--to", "npy", "--provider", "cpu").exit_code == 0
    assert sorted(os.listdir(there)) == sorted(os.listdir(here)) == [f"{n}.npy" for n in "abcd"]
    for name in os.listdir(here):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    expected = stream_graphs.decode(smooth(8))
    np.testing.assert_allclose(np.load(there / "b.npy"), expected, rtol=0, atol=1e-5)


def test_what_is_refused(tmp_path, model):
    source = save(tmp_path / "z.npy", smooth())
    out = tmp_path / "out"
    for arguments, complaint in [
        ((source, tmp_path / "o.npy", "--ray"), "--ray decodes a folder of latents"),
        ((tmp_path, out, "--ray", "--server", "http://127.0.0.1:1"), "and not by a --server"),
        ((tmp_path, out, "--replicas", "2"), "--replicas is for --ray"),
        ((tmp_path, out, "--ray", "--replicas", "x"), "--replicas x is no number or range"),
    ]:
        assert_refused(decode_vae(model, *arguments), complaint)
    assert not out.exists() or os.listdir(out) == []
