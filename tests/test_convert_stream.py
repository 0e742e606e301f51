import json
import os

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from converter import convert_stream
from converter.cli import convert_vae
from converter.convert import Options
from converter.errors import UserError
from converter.manifest import read
from converter.runtime import Decoder
from tests import stream_graphs
from tests.small_models import files

PAGES = 2 * 4096
"""Each of the two weights starts at a page."""

WEIGHTS = sum(weight.nbytes for weight in stream_graphs.weights().values())


def convert(source, output, **options):
    return convert_stream.run(source, output, Options(**options), lambda phase: None)


def assert_decodes(path, tolerance=1e-5):
    z = stream_graphs.latent(5)
    video = Decoder(path, "cpu").decode(z)
    np.testing.assert_allclose(video, stream_graphs.decode(z), rtol=0, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["unfold", "taps", "winograd", "auto"])
def test_both_graphs_are_converted_and_share_their_weights(tmp_path, chunk, strategy):
    source = stream_graphs.write(tmp_path / "a.json", chunk)
    result = convert(source, tmp_path / "b.json", strategy=strategy)
    assert result.written
    assert result.equal
    assert read(tmp_path / "b.json").spec == stream_graphs.spec(chunk)
    refused = strategy == "winograd" and chunk == 1
    assert {g.conv3d_left for g in result.graphs.values()} == {2 if refused else 0}
    assert result.data_bytes == (tmp_path / "b.data").stat().st_size
    # Winograd stores 4 weights where 3 taps were for 2 frames, and 6 for 4.
    grown = {2: 4 / 3, 4: 2}.get(chunk, 1) if strategy in ("winograd", "auto") else 1
    assert WEIGHTS <= result.data_bytes <= WEIGHTS * grown + PAGES
    # Winograd in fp32 loses a few more bits than a direct sum.
    assert_decodes(tmp_path / "b.json", 5e-5)


def test_the_first_graph_follows_the_next(tmp_path):
    source = stream_graphs.write(tmp_path / "a.json", 2)

    def choose(conv):
        assert conv.y.name in ("one.made", "video")
        asked.append(conv.name)
        return convert_stream.Choice("taps" if len(asked) == 1 else "unfold", "a test")

    asked = []
    result = convert(source, tmp_path / "b.json", choose=choose)
    for role in ("first", "next"):
        plan = result.graphs[role].plan
        assert [e.strategy for e in plan.entries] == ["taps", "unfold"]
    assert asked == ["one", "two"]


@pytest.mark.parametrize("strategy", ["winograd", "winograd2d"])
def test_a_longer_first_graph_has_the_tiles_of_the_next(tmp_path, strategy):
    """Its 5 frames would take one tile of 5, of other weights; two tiles of 4 share those there."""
    source = stream_graphs.write(tmp_path / "a.json", 4, lead=1)
    result = convert(source, tmp_path / "b.json", strategy=strategy)
    for role in ("first", "next"):
        assert [e.tiles for e in result.graphs[role].plan.entries] == [(4,), (4,)]
    grown = 2 if strategy == "winograd" else 4
    assert WEIGHTS * grown <= result.data_bytes <= WEIGHTS * grown + PAGES
    assert_decodes(tmp_path / "b.json", 5e-5)


def test_graphs_of_any_size_are_validated_and_stay_so(tmp_path, monkeypatch):
    source = stream_graphs.write(tmp_path / "a.json", dynamic=True)
    fed = []
    run = convert_stream.convert_graph

    def recording(path, output, options, notify):
        fed.append(options.shapes)
        return run(path, output, options, notify)

    monkeypatch.setattr(convert_stream, "convert_graph", recording)
    result = convert(source, tmp_path / "b.json", shapes={"latent": (1, 8, 2, 3, 7)})
    assert result.equal
    shape = (1, 8, 2, 3, 7)
    assert fed[0] == {"latent": shape, "cache_in.one": shape, "cache_in.two": shape}
    assert fed[1] == {"latent": shape}
    assert convert(source, tmp_path / "c.json").equal
    assert fed[3] == {"latent": (1, 8, 2, 8, 8)}
    z = stream_graphs.latent(3, 6, 3)
    video = Decoder(tmp_path / "b.json", "cpu").decode(z)
    np.testing.assert_allclose(video, stream_graphs.decode(z), rtol=0, atol=5e-5)


def test_a_manifest_is_converted_in_place(tmp_path):
    path = stream_graphs.write(tmp_path / "a.json")
    assert convert(path, path, overwrite=True, strategy="unfold").written
    assert len(os.listdir(tmp_path)) == 4
    assert_decodes(path, 5e-5)
    for role in ("first", "next"):
        graph = onnx.load(read(path).path(role)).graph
        assert 5 not in {len(t.dims) for t in graph.initializer}


def test_a_failed_validation_leaves_nothing(tmp_path, monkeypatch):
    source = stream_graphs.write(tmp_path / "a.json")
    before = files(tmp_path)
    run = convert_stream.convert_graph

    def failing(path, output, options, notify):
        result = run(path, output, options, notify)
        is_next = "next" in path.name
        return convert_stream.replace(result, written=not is_next)

    monkeypatch.setattr(convert_stream, "convert_graph", failing)
    result = convert(source, tmp_path / "b.json")
    assert not result.written
    assert result.data_bytes is None
    assert not any(graph.written for graph in result.graphs.values())
    assert files(tmp_path) == before


def test_a_dry_run_plans_both_and_writes_nothing(tmp_path):
    source = stream_graphs.write(tmp_path / "a.json")
    before = files(tmp_path)
    result = convert(source, None, dry_run=True)
    assert [len(graph.plan.entries) for graph in result.graphs.values()] == [2, 2]
    assert not result.written
    assert files(tmp_path) == before


def test_a_pin_may_match_in_both_or_in_one_but_not_in_none(tmp_path):
    source = stream_graphs.write(tmp_path / "a.json")
    result = convert(source, None, dry_run=True, pins={"tw*": "taps"})
    for graph in result.graphs.values():
        assert [e.strategy for e in graph.plan.entries][1] == "taps"
    with pytest.raises(UserError, match="the pin 'three' matches no Conv3D"):
        convert(source, None, dry_run=True, pins={"three": "taps"})


def test_a_shape_is_that_of_the_latent(tmp_path):
    source = stream_graphs.write(tmp_path / "a.json", dynamic=True)
    for shapes in ({"cache_in.one": (1, 8, 2, 3, 3)}, {"latent": (1, 8, 2)}):
        with pytest.raises(UserError, match="--shape for a manifest is that of its latent"):
            convert(source, None, dry_run=True, shapes=shapes)


def invoke(*args):
    return CliRunner().invoke(convert_vae.main, [str(arg) for arg in args])


def test_the_command_takes_a_manifest(tmp_path):
    source = stream_graphs.write(tmp_path / "a.json")
    run = invoke(source, tmp_path / "b.json")
    assert run.exit_code == 0, run.output
    assert "first" in run.output
    assert "next" in run.output
    assert f"written: {tmp_path / 'b.json'}" in run.output
    assert_decodes(tmp_path / "b.json", 5e-5)
    run = invoke(source, tmp_path / "c.json", "--json")
    content = json.loads(run.output)
    assert content["written"]
    assert content["graphs"]["next"]["output"] == str(tmp_path / "c.next.onnx")
    assert invoke(source, tmp_path / "d.json", "-q").output == ""


def test_what_the_command_refuses(tmp_path):
    source = stream_graphs.write(tmp_path / "a.json")
    run = invoke(source, tmp_path / "b.json", "--plan-out", tmp_path / "plan.json")
    assert run.exit_code == 2
    assert "a manifest has two" in run.output
    run = invoke(source, tmp_path / "b.onnx")
    assert run.exit_code == 2
    assert "must end in .json" in run.output
