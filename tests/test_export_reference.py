"""Upstream's `decode` as a side of a comparison, against diffusers called directly."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from converter.cli.diff_vae import main
from tests import small_decoders
from tests.compare.graphs import conv3d, save

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("onnxruntime")

SHAPE = (1, 4, 2, 3, 4)


def diff_vae(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("sides") / "vae"
    small_decoders.wan(small_decoders.WAN_2_1).save_pretrained(found)
    return found


def test_upstream_decodes_the_feed(folder, tmp_path):
    latent = small_decoders.latent(*SHAPE)
    np.save(tmp_path / "z.npy", latent.numpy())
    done = diff_vae(
        f"torch:{folder}", "--feed", tmp_path / "z.npy", "--save-outputs", tmp_path / "out"
    )
    assert done.exit_code == 0, done.stderr
    expected = small_decoders.decode(small_decoders.wan(small_decoders.WAN_2_1), latent)
    with np.load(tmp_path / "out/vae.npz") as saved:
        np.testing.assert_array_equal(saved["video"], expected.numpy())


def test_it_may_be_on_either_side_and_says_what_ran(folder, tmp_path):
    """Beside outputs that were saved from it: the same numbers, another name."""
    shape = f"latent={'x'.join(map(str, SHAPE))}"
    inputs = tmp_path / "in.npz"
    saved = ["--save-outputs", tmp_path / "out", "--save-inputs", inputs]
    assert diff_vae(f"torch:{folder}", "--shape", shape, *saved).exit_code == 0
    given = [tmp_path / "out/vae.npz", f"torch:{folder}", "--feed", inputs, "--json"]
    report = json.loads(diff_vae(*given).stdout)
    (candidate,) = report["candidates"]
    assert (candidate["passed"], candidate["label"]) == (True, "torch:vae")
    assert candidate["outputs"][0]["max_abs"] == 0
    assert candidate["evaluator"].startswith("AutoencoderKLWan.decode of diffusers")
    given[:2] = given[1::-1]
    assert json.loads(diff_vae(*given).stdout)["reference"]["label"] == "torch:vae"


def test_a_preset_needs_the_seed_of_its_weights():
    done = diff_vae("torch:wan2.1", "a.npz")
    assert done.exit_code == 2
    assert "give --weights-seed 0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["torch:{folder}/missing"], "and no preset"),
        (["torch:{folder}", "--layers"], "torch: decoders hold no layers"),
        (["torch:{folder}", "--shape", "latent=1x4x2x3"], "has rank 4"),
        (["torch:{folder}", "--shape", "latent=1x5x2x3x4"], "has 5 on axis 1"),
        (["{graph}"], "the inputs do not match (by position)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder, tmp_path, arguments, complaint):
    graph = save(conv3d(dims=(1, 2, 3, 6, 8)), tmp_path / "a.onnx")
    given = [a.format(folder=folder, graph=graph) for a in arguments]
    done = diff_vae(f"torch:{folder}", *given)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert complaint in line


def test_without_pytorch_graphs_are_compared_and_a_torch_side_is_refused(tmp_path):
    import subprocess
    import sys

    graph = save(conv3d(), tmp_path / "a.onnx")
    code = (
        "import sys; sys.modules['torch'] = None\nfrom converter.cli.diff_vae import main; main()"
    )
    command = [sys.executable, "-c", code]
    fine = subprocess.run([*command, graph, graph, "-q"], capture_output=True, text=True)
    assert (fine.returncode, fine.stderr) == (0, "")
    refused = subprocess.run([*command, graph, f"torch:{tmp_path}"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "pip install 'convert-vae[export]'" in refused.stderr


def test_upstream_encodes_the_feed(tmp_path):
    """Its sizes are found by trial: those of a video that has a latent."""
    config = small_decoders.WAN_2_1 | {"num_res_blocks": 1}
    vae = small_decoders.wan(config)
    vae.save_pretrained(tmp_path / "vae")
    saved = ["--save-outputs", tmp_path / "out", "--save-inputs", tmp_path / "in.npz"]
    done = diff_vae(f"torch-encoder:{tmp_path / 'vae'}", *saved)
    assert done.exit_code == 0, done.stderr
    with np.load(tmp_path / "in.npz") as inputs, np.load(tmp_path / "out/vae.npz") as outputs:
        video = torch.from_numpy(inputs["video"])
        assert tuple(video.shape) == (1, 3, 5, 16, 24)
        with torch.inference_mode():
            expected = vae.encode(video).latent_dist.mean
        np.testing.assert_array_equal(outputs["latent"], expected.numpy())
    given = [tmp_path / "out/vae.npz", f"torch-encoder:{tmp_path / 'vae'}"]
    report = json.loads(diff_vae(*given, "--feed", tmp_path / "in.npz", "--json").stdout)
    (candidate,) = report["candidates"]
    assert (candidate["passed"], candidate["label"]) == (True, "torch-encoder:vae")
    assert candidate["outputs"][0]["max_abs"] == 0
    assert candidate["evaluator"].startswith("AutoencoderKLWan.encode of diffusers")
    odd = diff_vae(given[1], given[1], "--shape", "video=1x3x8x16x16")
    assert odd.exit_code == 2
    assert "has 8 on axis 2, but it must be 4*T - 3" in odd.stderr
