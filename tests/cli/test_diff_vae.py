import json

import numpy as np
import pytest
from click.testing import CliRunner

from converter.cli.diff_vae import main, parse_gates
from converter.compare.gates import Gates, Limits
from converter.errors import UserError
from tests.compare.graphs import conv3d, save
from tests.compare.planted import change_a_weight, converted, plant

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")

DIMS = (1, 2, 3, 12, 16)


def diff_vae(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def pair(tmp_path):
    return (
        save(conv3d(dims=DIMS), tmp_path / "a.onnx"),
        save(conv3d(dims=DIMS, scale=1.5), tmp_path / "b.onnx"),
    )


def test_equal_graphs_end_with_0_and_the_figures(pair):
    done = diff_vae(pair[0], pair[0])
    assert done.exit_code == 0, done.stderr
    assert "would pass" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("pass ")
    assert "inf dB" in done.stdout


def test_different_graphs_end_with_1_and_the_gate(pair):
    done = diff_vae(*pair, "--atol", "1e-3", "-v")
    assert done.exit_code == 1
    assert "needs --atol" in done.stdout
    assert "SSIM" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.split()[:1] == ["0"]]) == 3


def test_gates_may_be_for_one_output(pair):
    assert diff_vae(*pair, "--atol", "1e-3", "--atol", "y=10").exit_code == 0
    assert diff_vae(*pair, "--atol", "10", "--atol", "y=1e-3").exit_code == 1


def test_quiet_prints_only_a_failure(pair):
    assert diff_vae(pair[0], pair[0], "-q").output == ""
    done = diff_vae(*pair, "-q")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "different: output y" in done.stderr


def test_json_is_the_result(pair):
    report = json.loads(diff_vae(*pair, "--json", "--feeds", 2).stdout)
    assert report["version"] == 1
    assert [feed["source"] for feed in report["feeds"]] == ["seed 0", "seed 1"]
    assert report["candidates"][0]["passed"] is False


def test_the_outputs_of_another_machine_are_compared(pair, tmp_path):
    assert diff_vae(*pair, "--save-outputs", tmp_path / "o").exit_code == 1
    done = diff_vae(tmp_path / "o/a.npz", tmp_path / "o/b.npz", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["reference"]["seconds"] is None


def test_gates_are_read_by_output():
    found = parse_gates({"atol": ["1", "y=2", "1e-3"], "min_ssim": ["y=0.5"]})
    assert found == Gates(Limits(atol=1e-3), {"y": Limits(atol=2, min_ssim=0.5)})
    with pytest.raises(UserError):
        parse_gates({"atol": ["y="]})


def test_the_range_of_frames_may_be_given(pair):
    report = json.loads(diff_vae(*pair, "--json", "--data-range", 2).stdout)
    frames = report["candidates"][0]["outputs"][0]["frames"]
    assert frames["data_range"] == 2
    assert np.isfinite(frames["psnr_db"]["mean"])


def test_layers_name_the_first_to_blame(tmp_path):
    reference, candidate = converted(tmp_path, "unfold")
    planted = plant(candidate, 2, change_a_weight)
    done = diff_vae(reference, candidate, planted, "--layers", "--slice-size", 4)
    assert done.exit_code == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("layers: ")]
    assert lines[0].startswith("layers: no layer of 6 is beyond")
    assert lines[1].startswith("layers: first layer to blame: c2 (now ")
    report = json.loads(diff_vae(reference, planted, "--layers", "--json").stdout)
    (found,) = report["candidates"]
    assert found["layers"]["first_blamed"] == "c2"
    assert [entry["output"] for entry in found["plan"]] == [f"c{n}" for n in range(6)]


def test_saved_outputs_have_no_layers(pair, tmp_path):
    diff_vae(*pair, "--save-outputs", tmp_path / "o")
    done = diff_vae(tmp_path / "o/a.npz", pair[1], "--layers")
    assert done.exit_code == 2
    assert "saved outputs and torch: decoders hold no layers" in done.stderr
