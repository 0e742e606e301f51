import dataclasses
import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from onnx.numpy_helper import from_array, to_array

import converter
from converter import UserError, convert
from converter.convert import Options
from converter.plan import AUTO
from converter.rewrites import taps
from converter.version import VERSION
from tests import small_models
from tests.execute import conv3d_left, run
from tests.patience import PATIENCE
from tests.small_models import VIDEO, draw, files, save, save_external, value


@pytest.fixture
def source(tmp_path) -> Path:
    return save(small_models.two_conv3d(), tmp_path / "in.onnx")


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out.onnx"


def metadata(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def sabotage(monkeypatch) -> None:
    """Make `taps` use the weights of its first tap for all."""
    right = taps._weight
    monkeypatch.setattr(taps, "_weight", lambda conv, emit, k: right(conv, emit, 0))


# --- the result ---------------------------------------------------------------------------------


def test_the_result_says_what_was_done(source, output):
    result = convert(source, output, strategy="unfold")
    assert (result.input, result.output, result.written) == (source, output, True)
    assert (result.before.conv3d, result.conv3d_left, result.after.conv3d) == (2, 0, 0)
    assert [e.node for e in result.plan.entries] == ["first", "second"]
    assert result.before.nodes == {"Conv": 2, "Relu": 1}
    assert result.before.node_count == 3
    after = onnx.load(output)
    assert result.after.node_count == len(after.graph.node)
    assert result.after.nodes["Conv"] == 2
    assert result.before.parameters == result.after.parameters == 2 * 4 * 4 * 27
    assert result.before.file_bytes == source.stat().st_size
    assert result.after.file_bytes == output.stat().st_size
    assert result.before.opset == result.after.opset == result.opset.after == 18
    assert result.before.ir_version == 10
    assert list(result.seconds) == ["load", "plan", "rewrite", "save", "validate"]
    assert result.validation.passed
    assert result.equal
    assert result.notes == ()
    assert conv3d_left(after) == []


def test_the_result_is_json_and_a_sentence(source, output):
    result = convert(source, output)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["version"] == 1
    assert data["input"] == str(source)
    assert data["output"] == str(output)
    assert data["written"] is True
    assert data["conv3d_left"] == 0
    assert data["opset"] == {"before": 18, "after": 18, "blockers": []}
    assert data["before"]["nodes"] == {"Conv": 2, "Relu": 1}
    assert data["after"]["conv3d"] == 0
    assert set(data["seconds"]) == set(result.seconds)
    assert data["validation"]["passed"] is True
    assert data["plan"] == json.loads(json.dumps(result.plan.to_json()))
    text = str(result)
    assert text.startswith(f"{source} -> {output}: 2 Conv3D, 0 left; opset 18; equal within")


def test_paths_may_be_strings(source, output):
    assert convert(str(source), str(output), validate=False).written


def test_nothing_is_public_by_accident():
    assert set(converter.__all__) == {"ConvertResult", "UserError", "__version__", "convert"}
    assert converter.__version__ == VERSION


def test_every_option_of_the_door_reaches_the_job():
    import inspect

    given = inspect.signature(convert).parameters
    options = {f.name: f.default for f in dataclasses.fields(Options)}
    # `tune` and its cache are how the door spells the chooser.
    assert options.pop("choose") is None
    assert options.pop("tiles_like") is None  # of a stream's other graph
    assert set(given) - {"input", "output", "tune", "tuning_cache"} == set(options)
    for name, default in options.items():
        if name not in (
            "pins",
            "shapes",
            "provider_options",
        ):  # Made anew for each job; None at the door.
            assert given[name].default == default, name


# --- what is written ----------------------------------------------------------------------------


def test_the_interface_stays_byte_for_byte(tmp_path, output):
    proto = small_models.conv3d(dims=("N", 4, "T", "H", "W"))
    proto.graph.input[0].doc_string = "pixels"
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "frames"
    convert(save(proto, tmp_path / "in.onnx"), output, validate=False)
    after = onnx.load(output)
    for kind in ("input", "output"):
        before = [v.SerializeToString() for v in getattr(proto.graph, kind)]
        assert [v.SerializeToString() for v in getattr(after.graph, kind)] == before
    onnx.checker.check_model(after, full_check=True)


def test_the_input_is_not_touched(source, output):
    before = source.read_bytes()
    convert(source, output)
    assert source.read_bytes() == before
    assert sorted(files(source.parent)) == ["in.onnx", "out.onnx"]


def test_a_model_is_converted_in_place_if_asked(tmp_path):
    path = save_external(small_models.two_conv3d(), tmp_path / "a.onnx", "a.onnx.data")
    with pytest.raises(UserError, match="--overwrite"):
        convert(path, path)
    assert convert(path, path, overwrite=True).equal
    assert conv3d_left(onnx.load(path)) == []
    assert sorted(files(tmp_path)) == ["a.onnx", "a.onnx.1.data"]


@pytest.mark.parametrize("wish", ["auto", "always", "never"])
def test_external_data_goes_where_it_is_wished(source, output, wish):
    result = convert(source, output, external_data=wish)
    there = Path(f"{output}.data").exists()
    assert there is (wish == "always")
    assert result.after.file_bytes == sum(
        len(data) for name, data in files(output.parent).items() if name.startswith("out")
    )


def test_two_outputs_in_one_folder_do_not_share_data(source, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        convert(source, tmp_path / name, external_data="always", validate=False)
    assert {"a.onnx.data", "b.onnx.data"} < set(files(tmp_path))


def test_a_graph_without_conv3d_is_written_unchanged_byte_for_byte(tmp_path, output):
    proto = small_models.conv2d()
    source = save(proto, tmp_path / "in.onnx")
    with source.open("ab") as file:  # A field that no ONNX knows stays too.
        file.write(b"\xa2\x06\x03abc")
    result = convert(source, output)
    assert output.read_bytes() == source.read_bytes()
    assert result.written
    assert result.equal
    assert result.conv3d_left == 0
    assert result.validation is None
    (note,) = result.notes
    assert "no Conv3D" in note
    assert "unchanged" in note


def test_a_graph_without_conv3d_and_with_external_data_keeps_its_values(tmp_path, output):
    source = save_external(small_models.conv2d(), tmp_path / "in.onnx")
    convert(source, output)
    before, after = onnx.load(source), onnx.load(output)
    np.testing.assert_array_equal(
        to_array(after.graph.initializer[0]), to_array(before.graph.initializer[0])
    )
    assert after.graph.node == before.graph.node
    assert not after.metadata_props


def test_a_function_with_a_conv2d_alone_is_not_even_inlined(tmp_path, output):
    imports = [helper.make_opsetid("", 22)]
    body = [helper.make_node("Conv", ["a", "k"], ["z"])]
    function = helper.make_function("own", "F", ["a", "k"], ["z"], body, imports)
    proto = small_models.model(
        [helper.make_node("F", ["x", "w"], ["y"], domain="own")],
        [value("x", [1, 8, 6, 8])],
        [value("y", [None] * 4)],
        [from_array(draw((8, 8, 3, 3)), "w")],
        opset=22,
        functions=[function],
    )
    source = save(proto, tmp_path / "in.onnx")
    result = convert(source, output, opset=18)
    assert output.read_bytes() == source.read_bytes()
    assert result.opset.after == 22
    assert result.notes[0].endswith("unchanged, at opset 22")


def test_kept_conv3d_stay_as_they_were(source, output):
    result = convert(source, output, strategy="keep", layout=False)
    assert result.conv3d_left == 2
    before, after = onnx.load(source), onnx.load(output)
    assert after.graph.SerializeToString() == before.graph.SerializeToString()


# --- provenance ---------------------------------------------------------------------------------


def test_the_output_says_where_it_came_from(source, output):
    result = convert(source, output, pins={"first": "taps"}, strategy="unfold", validate=False)
    said = metadata(output)
    assert said["convert_vae.version"] == VERSION
    assert said["convert_vae.input_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    options = json.loads(said["convert_vae.options"])
    assert options["strategy"] == "unfold"
    assert options["pins"] == {"first": "taps"}
    assert options["opset"] is None
    assert json.loads(said["convert_vae.plan"]) == json.loads(json.dumps(result.plan.to_json()))


@pytest.mark.parametrize("strategy", [AUTO, "unfold", "taps"])
@pytest.mark.parametrize("layout", [True, False])
def test_the_output_says_which_tensor_holds_what_a_conv3d_made(source, output, strategy, layout):
    convert(source, output, strategy=strategy, layout=layout, validate=False)
    places = json.loads(metadata(output)["convert_vae.outputs"])
    assert set(places) == {"m", "y"}
    before, after = onnx.load(source), onnx.load(output)
    for proto, names in ((before, places), (after, {p["tensor"] for p in places.values()})):
        outputs = {v.name for v in proto.graph.output}
        proto.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in sorted(names) if name not in outputs
        )
    feed = {"x": draw(VIDEO)}
    expected, got = (run(onnx.shape_inference.infer_shapes(p), feed) for p in (before, after))
    for name, place in places.items():
        layout_of = place["layout"]
        axes = [layout_of.index(axis) for axis in "NCTHW" if axis in layout_of]
        video = got[place["tensor"]].transpose(axes)
        wanted = expected[name]
        np.testing.assert_allclose(video.reshape(wanted.shape), wanted, atol=1e-4)


def test_other_metadata_stays_and_ours_is_replaced_when_converted_again(tmp_path, output):
    proto = small_models.two_conv3d()
    proto.metadata_props.add(key="author", value="someone")
    source = save(proto, tmp_path / "in.onnx")
    convert(source, output, pins={"second": "keep"}, validate=False)
    again = tmp_path / "again.onnx"
    convert(output, again, validate=False)
    keys = [p.key for p in onnx.load(again).metadata_props]
    assert keys.count("author") == 1
    assert len(keys) == len(set(keys))
    digest = metadata(again)["convert_vae.input_sha256"]
    assert digest == hashlib.sha256(output.read_bytes()).hexdigest()


# --- refusals, opset, strictness ----------------------------------------------------------------


def refused_model() -> ModelProto:
    """One Conv3D that can be rewritten, and one whose rank nothing tells."""
    proto = small_models.two_conv3d()
    graph = proto.graph
    graph.node.insert(0, helper.make_node("Reshape", ["v", "shape"], ["v5"]))
    graph.node.insert(1, helper.make_node("Reshape", ["k", "shape"], ["k5"]))
    graph.node.insert(2, helper.make_node("Conv", ["v5", "k5"], ["z"], "hidden"))
    graph.input.extend([value(name, [None]) for name in ("v", "k")])
    graph.input.append(value("shape", [None], onnx.TensorProto.INT64))
    graph.output.append(value("z", [None] * 5))
    return proto


def test_a_refused_conv3d_is_left_with_a_note(tmp_path, output):
    source = save(refused_model(), tmp_path / "in.onnx")
    result = convert(source, output, validate=False)
    assert result.written
    assert result.conv3d_left == 1
    (note,) = result.notes
    assert note.startswith("left as it was: hidden: neither the input's nor the weights' rank")


def test_strict_writes_nothing_where_a_conv3d_would_stay(tmp_path, output):
    source = save(refused_model(), tmp_path / "in.onnx")
    with pytest.raises(UserError, match="--strict: hidden would stay a Conv3D: neither"):
        convert(source, output, strict=True, validate=False)
    assert sorted(files(tmp_path)) == ["in.onnx"]
    pinned = convert(source, output, strict=True, validate=False, pins={"hidden": "keep"})
    assert pinned.written
    assert pinned.notes == ()


def test_a_pinned_strategy_that_cannot_have_its_way_is_noted(source, output):
    result = convert(source, output, pins={"first": "temporal"}, validate=False)
    assert result.conv3d_left == 1
    assert result.notes[0].startswith("left as it was: first: temporal needs")


def newer(op: str = "Relu") -> ModelProto:
    proto = small_models.two_conv3d()
    proto.opset_import[0].version = 22
    proto.graph.node[1].op_type = op
    return proto


def test_the_opset_comes_down_or_goes_where_it_is_wished(tmp_path, output):
    source = save(newer(), tmp_path / "in.onnx")
    for wish, expected in ((None, 18), (20, 20), (13, 13), (22, 22)):
        result = convert(source, output, opset=wish, overwrite=True)
        assert result.equal
        assert result.opset.before == 22
        assert result.opset.after == result.after.opset == expected
        assert onnx.load(output).opset_import[0].version == expected


def test_an_operator_in_the_way_of_the_opset_is_noted_or_an_error(tmp_path, output):
    source = save(newer("Gelu"), tmp_path / "in.onnx")
    result = convert(source, output)
    assert result.equal
    assert result.after.opset == 22
    assert result.notes == ("opset 22 kept: Gelu (node 'relu') does not exist at opset 18",)
    with pytest.raises(UserError, match="cannot go to opset 17: Gelu"):
        convert(source, output, opset=17, overwrite=True)


def test_a_dry_run_plans_and_writes_nothing(source, output):
    for target in (None, output):
        result = convert(source, target, dry_run=True)
        assert not result.written
        assert result.after is None
        assert result.validation is None
        assert result.conv3d_left == 2
        assert len(result.plan.entries) == 2
        assert json.dumps(result.to_json(), allow_nan=False)
        assert ", not written: 2 Conv3D" in str(result)
    assert sorted(files(source.parent)) == ["in.onnx"]


def test_without_an_output_there_is_only_a_dry_run(source):
    with pytest.raises(UserError, match="output"):
        convert(source, None)


# --- validation ---------------------------------------------------------------------------------


def test_a_wrong_rewrite_is_caught_and_nothing_written(source, output, monkeypatch):
    sabotage(monkeypatch)
    result = convert(source, output, strategy="taps")
    assert not result.written
    assert not result.equal
    assert not result.validation.passed
    assert result.validation.needed.min_psnr_db < 90
    assert "would have passed" in str(result)
    assert sorted(files(source.parent)) == ["in.onnx"]


def test_a_wrong_rewrite_does_not_replace_what_was_there(source, output, monkeypatch):
    output.write_bytes(b"precious")
    sabotage(monkeypatch)
    convert(source, output, strategy="taps", overwrite=True)
    assert output.read_bytes() == b"precious"


def test_keep_invalid_writes_all_the_same(source, output, monkeypatch):
    sabotage(monkeypatch)
    result = convert(source, output, strategy="taps", keep_invalid=True)
    assert result.written
    assert not result.equal
    assert conv3d_left(onnx.load(output)) == []


def test_without_validation_nothing_is_compared(source, output, monkeypatch):
    sabotage(monkeypatch)
    result = convert(source, output, strategy="taps", validate=False)
    assert result.written
    assert result.validation is None
    assert "validate" not in result.seconds


def test_shapes_and_seed_are_those_of_the_feed(tmp_path, output):
    source = save(small_models.conv3d(dims=("N", 4, "T", "H", "W")), tmp_path / "in.onnx")
    result = convert(source, output, shapes={"x": (2, 4, 5, 6, 7)}, seed=11)
    assert result.validation.feed_shapes == {"x": (2, 4, 5, 6, 7)}
    assert result.validation.seed == 11


def test_a_rewrite_that_makes_an_invalid_graph_is_not_written(source, output, monkeypatch):
    right = taps.rewrite

    def wrong(conv, emit):
        right(conv, emit)
        emit.nodes[-1].op = "NoSuchOperator"

    from converter import convert as _  # noqa: F401
    from converter.rewrites import BY_NAME, Strategy

    monkeypatch.setitem(BY_NAME, "taps", Strategy("taps", taps.check, wrong))
    with pytest.raises(UserError, match="the converted graph is not a valid ONNX graph"):
        convert(source, output, strategy="taps", validate=False, layout=False)
    assert sorted(files(source.parent)) == ["in.onnx"]


# --- what is not needed -------------------------------------------------------------------------

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = {"torch", "onnxruntime", "diffusers", "onnxscript", "transformers", "scipy", "PIL"}
sys.meta_path.insert(0, Blocker())
sys.argv = ["convert-vae", *sys.argv[1:]]
from converter.cli.convert_vae import main
main()
"""


def blocked(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where only what a core install brings can be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_conversion_needs_neither_torch_nor_onnxruntime(source, output):
    done = blocked(source, output, "--no-validate")
    assert (done.returncode, done.stderr) == (0, "")
    assert conv3d_left(onnx.load(output)) == []


def test_a_validation_without_onnxruntime_says_what_to_install(source, output):
    done = blocked(source, output)
    assert done.returncode == 2
    assert done.stderr.startswith("error: onnxruntime is not installed")
    assert "convert-vae[cpu]" in done.stderr
    assert sorted(files(source.parent)) == ["in.onnx"]


# --- damage -------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_model_is_converted_or_refused(tmp_path, data):
    damaged = bytearray(
        small_models.conv3d(kernel=(1, 1, 1), auto_pad="NOTSET").SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    source = tmp_path / "in.onnx"
    source.write_bytes(damaged)
    with suppress(UserError):
        convert(source, tmp_path / "out.onnx", validate=False, overwrite=True)
