import json

import onnx
import pytest

from converter import manifest, origin
from converter.errors import UserError
from converter.origin import GraphOptions, LatentScale, Origin

ORIGIN = Origin(
    class_name="AutoencoderKLWan",
    diffusers="0.1",
    config={"z_dim": 2, "dim_mult": [1, 2]},
    attributes={"use_tiling": False, "tile_sample_min_height": 256},
    channels=2,
    video_channels=3,
    time=4,
    space=8,
    frames="first alone",
    least=1,
    latents=LatentScale([0.5, -1.0], [2.0, 3.0]),
    graph=GraphOptions(denormalize=True, weights="float16"),
)


def refusal(data):
    with pytest.raises(UserError) as error:
        origin.from_json(data, "a.onnx")
    return str(error.value)


def test_what_is_written_is_read():
    text = json.dumps(ORIGIN.to_json())
    assert origin.from_json(json.loads(text), "") == ORIGIN
    assert json.loads(text)["version"] == 1


def test_a_decoder_without_a_scale_of_latents():
    data = ORIGIN.to_json() | {"latents": None, "of a later program": 1}
    assert origin.from_json(data, "").latents is None


def test_a_damaged_one_is_refused():
    data = ORIGIN.to_json()
    assert refusal([]) == "a.onnx: the origin is not a JSON object."
    assert refusal(data | {"version": 9}) == (
        "a.onnx: the origin has version 9; this program reads 1."
    )
    assert "the origin is damaged" in refusal(data | {"time": "four"})
    assert "the origin is damaged" in refusal(data | {"latents": [1]})
    assert refusal(data | {"graph": {}}) == "a.onnx: the origin lacks 'denormalize'."


def test_a_model_may_have_one_or_none():
    model = onnx.ModelProto()
    assert origin.of_metadata(model.metadata_props, "a.onnx") is None
    entry = model.metadata_props.add(key=origin.KEY, value=json.dumps(ORIGIN.to_json()))
    assert origin.of_metadata(model.metadata_props, "a.onnx") == ORIGIN
    entry.value = "{"
    with pytest.raises(UserError, match=r"a\.onnx: the origin is not JSON"):
        origin.of_metadata(model.metadata_props, "a.onnx")


def test_a_manifest_has_one(tmp_path):
    from dataclasses import replace

    from tests import stream_graphs

    read = manifest.read(stream_graphs.write(tmp_path / "a.json"))
    assert read.spec.origin is None
    text = replace(read, spec=replace(read.spec, origin=ORIGIN)).to_text()
    (tmp_path / "a.json").write_text(text)
    assert manifest.read(tmp_path / "a.json").spec.origin == ORIGIN
