import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import convert_stream, runtime
from converter.convert import Options
from converter.errors import UserError
from converter.export_stream import export_stream
from converter.manifest import read
from models.base import Decoder
from models.wan import WanDecoder
from tests.small_decoders import WAN_2_1, decode, latent, wan
from tests.small_models import files

ONE_STAGE = WAN_2_1 | {
    "dim_mult": [1, 2],
    "temperal_downsample": [True],
    "scale_factor_spatial": 2,
}
TOLERANCE = 1e-5
"""Of the issue; what is measured is 1e-6."""

EXPORTS = {1: (ONE_STAGE, False), 2: (WAN_2_1, False), 4: (ONE_STAGE, True)}
"""Chunk -> configuration, and whether H and W are dynamic."""


@pytest.fixture(scope="module", params=EXPORTS, ids=lambda chunk: f"chunk-{chunk}")
def exported(request, tmp_path_factory):
    folder, chunk = tmp_path_factory.mktemp("export"), request.param
    config, dynamic = EXPORTS[chunk]
    vae = wan(config)
    vae.save_pretrained(folder / "small")
    result = export_stream(
        str(folder / "small"),
        folder / "out.json",
        chunk=chunk,
        latent=(1, 4, chunk, 5, 3),
        dynamic=dynamic,
    )
    return vae, result


def assert_equal_to_upstream(vae, path, *shape, tolerance=TOLERANCE):
    z = latent(*shape, seed=7)
    expected = decode(vae, z).numpy()
    assert expected.std() > 0.05
    video = runtime.Decoder(path, "cpu").decode(z.numpy())
    np.testing.assert_allclose(video, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("frames", [1, 2, 6, 9])
def test_a_latent_of_any_length_equals_upstream(exported, frames):
    vae, result = exported
    assert_equal_to_upstream(vae, result.output, 1, 4, frames, 5, 3)
    if result.dynamic:
        assert_equal_to_upstream(vae, result.output, 1, 4, frames, 3, 4)


@pytest.mark.parametrize("strategy", ["unfold", "auto"])
def test_a_converted_manifest_equals_upstream(exported, strategy, tmp_path):
    vae, result = exported
    options = Options(strategy=strategy)
    out = tmp_path / "out.json"
    converted = convert_stream.run(result.output, out, options, lambda phase: None)
    assert converted.equal
    assert {graph.conv3d_left for graph in converted.graphs.values()} == {0}
    assert_equal_to_upstream(vae, out, 1, 4, 9, 5, 3)
    if strategy == "unfold":
        assert converted.data_bytes <= result.data_bytes
    if result.chunk > 1:  # Where `first` has one frame only, Winograd does not take it.
        manifest = read(out)
        alone = offsets(manifest.path("first")) - offsets(manifest.path("next"))
        assert len(alone) == (1 if result.chunk == 2 and strategy == "auto" else 0)


def offsets(path):
    """Where in the data file the weights of a graph lie."""
    held = onnx.load(path, load_external_data=False).graph.initializer
    return {entry.value for t in held for entry in t.external_data if entry.key == "offset"}


def test_the_result_says_what_was_made(exported):
    _, result = exported
    manifest = read(result.output)
    assert result.written
    assert result.equal
    assert result.latent == (1, 4, result.chunk, 5, 3)
    assert 0 < result.max_abs_error < TOLERANCE
    frames = {shape[2] for shape in result.checked}
    assert len(frames) == 1
    assert frames.pop() > 2 * result.chunk
    assert result.data_bytes == manifest.path("data").stat().st_size
    for role, graph in result.graphs.items():
        proto = onnx.load(manifest.path(role))
        assert graph.node_count == len(proto.graph.node)
        assert graph.file_bytes == manifest.path(role).stat().st_size
        assert {p.key for p in proto.metadata_props} >= {"export_vae.family"}
    content = json.loads(json.dumps(result.to_json()))
    assert content["max_abs_error"] == result.max_abs_error
    assert content["equal"]


def test_the_graphs_are_named_as_the_manifest_says(exported):
    _, result = exported
    manifest = read(result.output)
    caches = manifest.spec.caches
    assert caches[0].input == "cache_in.decoder.conv_in"
    assert caches[-1].output == "cache_out.decoder.conv_out"
    height, width = result.latent[3:]
    shapes = manifest.spec.inputs(height, width)
    for role, inputs in (("first", ["latent"]), ("next", list(shapes))):
        graph = onnx.load(manifest.path(role), load_external_data=False).graph
        assert [i.name for i in graph.input] == inputs
        assert [o.name for o in graph.output] == ["video", *(c.output for c in caches)]
        if not result.dynamic:
            for info in graph.input:
                dims = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
                assert dims == shapes[info.name]


@pytest.fixture
def folder(tmp_path):
    wan(ONE_STAGE).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def refusal(*args, **options):
    with pytest.raises(UserError) as error:
        export_stream(*args, **options)
    return str(error.value)


def test_bad_input(folder, monkeypatch):
    out = folder / "out.json"
    before = files(folder)
    assert "must end in .json" in refusal(str(folder), folder / "out.onnx")
    assert "a chunk of 0 latent frames" in refusal(str(folder), out, chunk=0)
    assert "opset 17 cannot be exported" in refusal(str(folder), out, opset=17)
    wrong = refusal(str(folder), out, chunk=2, latent=(1, 4, 3, 5, 5))
    assert wrong == "the latent 1x4x3x5x5 has T = 3, but in stream form T is the chunk, 2."
    assert "C is 5" in refusal(str(folder), out, latent=(1, 5, 1, 5, 5))
    monkeypatch.setattr(WanDecoder, "stream", Decoder.stream)
    assert "Wan has no stream form; leave out --stream" in refusal(str(folder), out)
    assert files(folder) == before


@pytest.mark.parametrize("exported", [1], indirect=True)
def test_a_difference_leaves_nothing_behind(exported, folder, monkeypatch):
    _, result = exported
    loaded = read(result.output)
    graphs = {role: convert_stream.model_file.load(loaded.path(role)) for role in result.graphs}
    monkeypatch.setattr("converter.export_stream._trace", lambda *_: graphs)
    original = WanDecoder.reference
    monkeypatch.setattr(WanDecoder, "reference", lambda self, z: original(self, z) + 3e-5)
    before = files(folder)
    options = {"chunk": 1, "latent": result.latent}
    different = export_stream(str(folder), folder / "out.json", **options)
    assert not different.equal
    assert not different.written
    assert "different from upstream's decode: max abs 3." in different.sentence()
    assert files(folder) == before
    unchecked = export_stream(str(folder), Path(folder / "out.json"), check=False, **options)
    assert unchecked.written
    assert unchecked.sentence() == "not checked against upstream"
