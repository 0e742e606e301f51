import json

import onnx
import pytest

from tests.cli.command import assert_refused, convert_vae
from tests.compare.planted import decoder

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("jinja2")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(decoder(), str(path))
    return path


def test_a_conversion_reports_its_layers(source, tmp_path):
    done = convert_vae(source, tmp_path / "b.onnx", "--report", tmp_path / "r.json", "--seed", 3)
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["passed"] is True
    (candidate,) = report["candidates"]
    assert len(candidate["layers"]["layers"]) == 6
    assert report["feeds"][0]["source"] == "seed 3"
    assert "--layers --seed 3" in report["command"]


def test_a_report_that_cannot_be_is_refused_before_the_work(source, tmp_path):
    output = tmp_path / "b.onnx"
    for path, complaint in (("r.pdf", "the form"), ("missing/r.html", "the folder")):
        assert_refused(convert_vae(source, output, "--report", tmp_path / path), complaint)
    same = convert_vae(source, source, "--overwrite", "--report", tmp_path / "r.html")
    assert_refused(same, "--report needs INPUT")
    assert not output.exists()
