"""Bad input to `diff-vae`: one sentence on stderr, exit code 2, and nothing written."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from converter.cli.diff_vae import main
from converter.compare import room
from tests.cli.command import assert_refused
from tests.compare.graphs import conv3d, model, save
from tests.patience import PATIENCE

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")

DIMS = (1, 2, 3, 12, 16)
OUT = (1, 3, 3, 12, 16)


def diff_vae(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def adds(names, outputs=("y",), dims=DIMS, out=None, elem_type=TensorProto.FLOAT):
    """A graph that sums its inputs into each of its outputs."""
    inputs = [(name, elem_type, dims) for name in names]
    nodes = [helper.make_node("Sum", list(names), [output]) for output in outputs]
    return model(nodes, inputs, [(output, elem_type, out) for output in outputs])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Graphs and saved outputs, by the names that the cases below use."""
    save(conv3d(dims=DIMS), tmp_path / "a.onnx")
    save(conv3d(dims=DIMS, scale=1.5), tmp_path / "b.onnx")
    save(conv3d(dims=(1, 2, "T", "H", "W")), tmp_path / "open.onnx")
    save(adds(["x", "z"]), tmp_path / "two_in.onnx")
    save(adds(["x"], ["y", "v"]), tmp_path / "two_out.onnx")
    save(adds(["x"], dims=(1, 2, 3, 12, 20)), tmp_path / "wide.onnx")
    save(adds(["x"], elem_type=TensorProto.INT64), tmp_path / "whole.onnx")
    save(adds(["x"], out=(1, 2, 3, 12, 16)), tmp_path / "narrow.onnx")
    save(adds(["x"], ["video"], out=DIMS), tmp_path / "video.onnx")
    save(
        model(
            [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
            [("x", 1, DIMS)],
            [("y", 1, [])],
        ),
        tmp_path / "flat.onnx",
    )
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [7])
    save(
        model(
            [helper.make_node("Reshape", ["x", "s"], ["y"])],
            [("x", 1, (1, 2, "T", "H", "W"))],
            [("y", 1, None)],
            [shape],
        ),
        tmp_path / "seven.onnx",
    )
    save(conv3d(dims=DIMS), tmp_path / "cut.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "cut.onnx").read_bytes()[:-300])
    (tmp_path / "empty.onnx").write_bytes(b"")
    np.savez(tmp_path / "o.npz", y=np.zeros(OUT, np.float32))
    np.savez(tmp_path / "longer.npz", y=np.zeros((1, 3, 5, 12, 16), np.float32))
    np.savez(tmp_path / "bytes.npz", y=np.zeros(OUT, np.uint8))
    np.savez(tmp_path / "both.npz", **{"y": np.zeros(OUT), "feed1/y": np.zeros(OUT)})
    np.savez(tmp_path / "v.npz", v=np.zeros(OUT), w=np.zeros(OUT))
    np.savez(tmp_path / "none.npz", y=np.zeros((0, 3)))
    np.savez(tmp_path / "pickle.npz", y=np.array([{}]))
    (tmp_path / "text.npz").write_text("no zip")
    nan = np.zeros(DIMS, np.float32)
    nan[0, 1, 2, 3, 4] = np.nan
    np.save(tmp_path / "nan.npy", nan)
    np.save(tmp_path / "inf.npy", nan + np.inf)
    np.save(tmp_path / "whole.npy", np.zeros(DIMS, np.int64))
    np.save(tmp_path / "flat.npy", np.zeros((2, 3)))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:200])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "feed.txt").write_text("1 2 3")
    (tmp_path / "cut.pt").write_bytes(b"PK")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 4)
    np.savez(tmp_path / "others.npz", a=np.zeros(DIMS), b=np.zeros(DIMS))
    (tmp_path / "vae").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = [
    # files that are no graphs and no saved outputs
    ("missing.onnx a.onnx", "missing.onnx does not exist"),
    ("a.onnx missing.npz", "missing.npz does not exist"),
    ("a.onnx cut.onnx", "cut.onnx is not an ONNX model, or is cut short"),
    ("a.onnx empty.onnx", "empty.onnx is not an ONNX model"),
    ("a.onnx vae", "vae does not exist or is not a file"),
    ("a.onnx feed.txt", "feed.txt is not an ONNX model"),
    ("a.onnx text.npz", "text.npz is not a readable .npz file: File is not a zip file"),
    ("o.npz pickle.npz", "y in pickle.npz is pickled Python objects, which are not loaded"),
    # names
    ("a.onnx two_in.onnx", "the inputs do not match: a.onnx has x, two_in.onnx has x, z; tried by"),
    ("a.onnx two_out.onnx", "the outputs do not match: a.onnx has y, two_out.onnx has y, v; tried"),
    ("o.npz v.npz", "the outputs do not match: o.npz has y, v.npz has v, w; tried by name and by"),
    # shapes and types
    (
        "a.onnx wide.onnx",
        "the inputs do not match (by name): x float 1x2x3x12x16 in a.onnx, "
        "x float 1x2x3x12x20 in wide.onnx",
    ),
    ("a.onnx whole.onnx", "x float 1x2x3x12x16 in a.onnx, x int64 1x2x3x12x16 in whole.onnx"),
    (
        "o.npz longer.npz",
        "the outputs do not match (by name): y float 1x3x3x12x16 in o.npz, "
        "y float 1x3x5x12x16 in longer.npz",
    ),
    ("o.npz bytes.npz", "y float 1x3x3x12x16 in o.npz, y uint8 1x3x3x12x16 in bytes.npz"),
    ("o.npz narrow.onnx", "y float 1x3x3x12x16 in o.npz, y float 1x2x3x12x16 in narrow.onnx"),
    ("narrow.onnx video.onnx o.npz", "y float 1x2x3x12x16 in narrow.onnx, y float 1x3x3x12x16 in"),
    ("o.npz both.npz", "o.npz holds the outputs of 1 feed, both.npz of 2"),
    ("both.npz b.onnx", "both.npz holds the outputs of 2 feeds, and there are 1"),
    ("none.npz none.npz", "every output of none.npz is empty"),
    # feeds
    ("a.onnx b.onnx --feed nan.npy", "nan.npy is NaN or infinite at (0, 1, 2, 3, 4); a feed must"),
    ("a.onnx b.onnx --feed inf.npy", "inf.npy is NaN or infinite at (0, 0, 0, 0, 0)"),
    ("a.onnx b.onnx --feed whole.npy", "whole.npy is int64, but the input is x float 1x2x3x12x16"),
    ("a.onnx b.onnx --feed flat.npy", "flat.npy has shape 2x3, but the input is x float"),
    ("a.onnx b.onnx --feed others.npz", "others.npz has no array for the input x; it holds a, b"),
    ("a.onnx b.onnx --feed missing.npy", "missing.npy does not exist"),
    ("a.onnx b.onnx --feed cut.npy", "cut.npy is not a readable .npy file"),
    ("a.onnx b.onnx --feed empty.npy", "empty.npy is not a readable .npy file"),
    ("a.onnx b.onnx --feed pickle.npy", "pickle.npy is not a readable .npy file"),
    ("a.onnx b.onnx --feed pickle.npz", "pickle.npz is not a readable .npz file"),
    (
        "a.onnx b.onnx --feed cut.pt",
        "cut.pt is not a readable .pt file: it is damaged, or holds more than tensors",
    ),
    ("a.onnx b.onnx --feed cut.safetensors", "cut.safetensors is not a readable .safetensors"),
    ("a.onnx b.onnx --feed feed.txt", "feed.txt is none of .npy, .npz"),
    ("a.onnx b.onnx --feed vae", "vae does not exist or is not a file"),
    ("o.npz o.npz --feed others.npz", "feeds and saved outputs need a graph"),
    ("a.onnx b.onnx --shape q=1x2", "--shape names 'q', but the graph's inputs are: x"),
    ("a.onnx b.onnx --shape x=1x2x3x12x17", "has 17 on axis 4, but it must be 16"),
    ("a.onnx b.onnx --shape x=1x2y", "--shape x=1x2y is not a shape"),
    # graphs that do not run
    ("a.onnx b.onnx --provider rocm", "rocm"),
    ("seven.onnx seven.onnx --shape x=1x2x3x4x5", "seven.onnx does not run on CPUExecutionProvi"),
    ("seven.onnx seven.onnx", "no size tried for the dynamic dimensions of seven.onnx runs"),
    # places
    ("a.onnx b.onnx --report r.pdf", "--report r.pdf: the form must be one of .html, .md, .json"),
    ("a.onnx b.onnx --report no/r.html", "--report no/r.html: the folder does not exist"),
    ("a.onnx b.onnx --report vae.html", "--report vae.html is a folder; name a file"),
    ("a.onnx b.onnx --report /proc/r.md", "--report /proc/r.md: the folder cannot be written"),
    ("a.onnx b.onnx --video no/v.mp4", "--video no/v.mp4: the folder does not exist"),
    ("a.onnx b.onnx --video /proc/v.mp4", "--video /proc/v.mp4: the folder cannot be written"),
    ("a.onnx b.onnx --save-inputs in.npy", "--save-inputs in.npy: the form is .npz"),
    ("a.onnx b.onnx --save-inputs no/in.npz", "--save-inputs no/in.npz: the folder does not exist"),
    ("a.onnx b.onnx --save-outputs no/o", "--save-outputs no/o: the folder does not exist"),
    ("a.onnx b.onnx --save-outputs o.npz", "--save-outputs o.npz is a file; name a folder"),
    (
        "a.onnx b.onnx --save-outputs /proc",
        "--save-outputs /proc/outputs.npz: the folder cannot",
    ),
    ("a.onnx ./a.onnx --save-outputs vae", "--save-outputs would write a.npz twice; rename one"),
    ("o.npz a.onnx --save-inputs o.npz", "--save-inputs would replace o.npz, which is compared"),
    ("o.npz o.onnx --save-outputs .", "--save-outputs would replace o.npz, which is compared"),
    # gates
    ("a.onnx b.onnx --atol much", "--atol 'much' is not of the form VALUE or NAME=VALUE"),
    ("a.onnx b.onnx --atol=-1", "--atol -1 must be a finite number of at least 0"),
    ("a.onnx b.onnx --rtol nan", "--rtol nan must be a finite number of at least 0"),
    ("a.onnx b.onnx --rtol inf", "--rtol inf must be a finite number of at least 0"),
    ("a.onnx b.onnx --min-psnr y=-3", "--min-psnr y=-3 must be a finite number of at least 0"),
    ("a.onnx b.onnx --min-ssim 1.5", "--min-ssim 1.5: SSIM is at most 1"),
    ("a.onnx b.onnx --atol y=", "--atol 'y=' is not of the form VALUE or NAME=VALUE"),
    ("a.onnx b.onnx --atol =1", "--atol '=1' is not of the form VALUE or NAME=VALUE"),
    ("a.onnx b.onnx --atol clip=1", "a gate names the output 'clip'; there are: y"),
    ("a.onnx b.onnx --min-ssim 0.9 --no-frames", "--min-ssim needs frames, which --no-frames"),
    # what is asked for does not go together
    ("a.onnx", "name a candidate to compare with, or save the outputs by --save-outputs"),
    ("o.npz a.onnx --layers", "--layers needs ONNX graphs"),
    ("flat.onnx flat.onnx --video v.mp4", "--video needs an output with frames, (N, C, T, H, W)"),
    ("none.npz none.npz --video v.webm", "--video needs an output with frames"),
    (
        "a.onnx flat.onnx",
        "the outputs do not match (by name): y float 1x3x3x12x16 in a.onnx, y float scalar in flat",
    ),
    # upstream's own decode
    ("torch:nowhere a.onnx", "nowhere"),
    ("torch:vae a.onnx", "vae"),
    ("torch:wan2.1 a.onnx", "--weights-seed"),
]


@pytest.mark.parametrize(("arguments", "complaint"), CASES, ids=[case[0] for case in CASES])
def test_one_sentence_and_2(folder, monkeypatch, arguments, complaint):
    save(conv3d(dims=DIMS), folder / "o.onnx")
    (folder / "vae.html").mkdir()
    before = everything(folder)
    done = diff_vae(*arguments.split())
    assert_refused(done, complaint)
    assert everything(folder) == before


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_what_is_found_while_running_names_both_shapes_too(folder):
    """Neither graph states the shape of its output; with --layers that is a verdict."""
    save(adds(["x"]), folder / "two.onnx")
    complaint = "y float 1x3x3x12x16 in a.onnx, y float 1x2x3x12x16 in two.onnx"
    assert_refused(diff_vae("a.onnx", "two.onnx"), complaint)
    assert_refused(diff_vae("a.onnx", "two.onnx", "--feeds", "2"), "(by name, feed 0)")


def test_a_run_that_cannot_fit_is_refused_before_it_starts(folder, monkeypatch):
    arguments = ["open.onnx", "a.onnx", "--shape", "x=1x2x3x12x16", "--save-outputs", "new"]
    monkeypatch.setattr(room, "available_bytes", lambda: 12_000)
    complaint = "a run of open.onnx on x=1x2x3x12x16 would take at least 12.2 kB of memory"
    assert_refused(diff_vae(*arguments), complaint)
    monkeypatch.setattr(room, "available_bytes", lambda: 9_000)
    complaint = "2 feeds of x=1x2x3x12x16 would take at least 9.2 kB"
    assert_refused(diff_vae(*arguments, "--feeds", "2"), complaint)
    assert not (folder / "new").exists()
    monkeypatch.setattr(room, "available_bytes", lambda: 12_200)
    assert diff_vae(*arguments).exit_code == 0
    assert (folder / "new/open.npz").exists()


def with_small_files(*arguments):
    """In a process whose files may have 4 kB."""
    return subprocess.run(
        [sys.executable, "-m", "converter.cli.diff_vae", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("paths", ["a.onnx b.onnx", "z.npz z.npz"])
def test_a_full_disk_is_told_and_leaves_nothing(folder, paths):
    np.savez_compressed("z.npz", y=np.zeros((1, 3, 9, 64, 64)))
    before = everything(folder)
    done = with_small_files(*paths.split())
    assert_refused(done, "the outputs cannot be kept in ")
    assert "File too large; name a folder with more room by the environment variable TMPDIR" in (
        done.stderr
    )
    assert everything(folder) == before


def test_a_feed_of_another_name_and_precision_is_taken(folder):
    """The border of what is refused: what has only one meaning is used."""
    np.savez("one.npz", whatever=np.zeros(DIMS, np.float16))
    assert diff_vae("a.onnx", "a.onnx", "--feed", "one.npz").exit_code == 0
