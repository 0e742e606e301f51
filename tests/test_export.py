import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import convert, model_file, origin
from converter import export as module
from converter.errors import UserError
from converter.export import export
from converter.session import CPU_ID, RunError, Session
from models.wan import WanDecoder
from tests.small_decoders import WAN_2_1, WAN_2_2, decode, latent, wan

# fp32 in another order of summation: measured below 1e-6 on decoders this small.
TOLERANCE = 2e-6
LATENT = (1, 4, 3, 5, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "small"
    wan(WAN_2_1).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def static(folder, tmp_path_factory):
    return export(str(folder), tmp_path_factory.mktemp("static") / "out.onnx", latent=LATENT)


@pytest.fixture(scope="module", params=[WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def dynamic(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dynamic")
    vae = wan(request.param)
    vae.save_pretrained(folder / "vae")
    return vae, export(str(folder), folder / "out.onnx", latent=LATENT, dynamic=True)


@pytest.fixture
def traced(static, monkeypatch):
    """`export` without its slow part: it gets the graph of `static`."""
    loaded = model_file.load(static.output)
    del loaded.proto.metadata_props[:]

    def copy(*_):
        proto = onnx.ModelProto()
        proto.CopyFrom(loaded.proto)
        return replace(loaded, proto=proto)

    monkeypatch.setattr(module, "trace", copy)


def run(path, z):
    return Session(str(path), "cpu", CPU_ID).run({"latent": z.numpy()})["video"]


def assert_equal_to_upstream(path, vae, shape):
    z = latent(*shape, seed=7)
    expected = decode(vae, z).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(run(path, z), expected, rtol=0, atol=TOLERANCE)


def dims(info):
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as error:
        export(*args, **kwargs)
    return str(error.value)


def test_the_graph_equals_upstream(static):
    assert_equal_to_upstream(static.output, wan(WAN_2_1), LATENT)


def test_the_result_says_what_was_made(static, folder):
    proto = onnx.load(static.output)
    assert static.written
    assert static.equal
    assert static.source == str(folder)
    assert static.seed is None
    assert static.latent == LATENT
    assert static.video == (1, 3, 9, 20, 16)
    assert static.dynamic == ()
    assert static.checked == (LATENT,)
    assert 0 < static.max_abs_error < TOLERANCE
    assert static.graph.node_count == len(proto.graph.node)
    assert static.graph.file_bytes == static.output.stat().st_size
    assert set(static.seconds) == {"open", "trace", "write", "check"}
    # Scalars, such as the bounds of the clamp, are constants of the graph, too.
    wanted = sum(np.prod(t.dims) for t in proto.graph.initializer if t.data_type == 1 and t.dims)
    assert wanted <= static.graph.parameters <= wanted + 10


def test_the_file_says_where_it_comes_from(static):
    notes = {p.key: p.value for p in onnx.load(static.output).metadata_props}
    assert notes["export_vae.source"] == "small"
    assert notes["export_vae.weights"] == "read"
    assert notes["export_vae.scale"] == "T' = (T - 1) * 4 + 1, H' = H * 4, W' = W * 4"
    made = origin.of_metadata(onnx.load(static.output).metadata_props, "")
    assert made is not None
    assert (made.class_name, made.config["base_dim"]) == ("AutoencoderKLWan", 4)


def test_a_conversion_keeps_the_origin(static, tmp_path):
    convert(static.output, tmp_path / "c.onnx", validate=False)
    before, after = (
        origin.of_metadata(onnx.load(path).metadata_props, "")
        for path in (static.output, tmp_path / "c.onnx")
    )
    assert before == after is not None


def test_the_result_is_json(static):
    content = json.loads(json.dumps(static.to_json()))
    assert content["max_abs_error"] == static.max_abs_error
    assert content["graph"]["conv3d"] == static.graph.conv3d
    assert content["latent"] == list(LATENT)
    no_number = replace(static, max_abs_error=float("nan"))
    assert not no_number.equal
    assert no_number.to_json()["max_abs_error"] is None


def test_the_graph_is_clean(static):
    proto = onnx.load(static.output)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    assert [dims(v) for v in (*proto.graph.input, *proto.graph.output)] == [
        [1, 4, 3, 5, 4],
        [1, 3, 9, 20, 16],
    ]
    noise = {"Identity", "Cast", "Constant", "Pad", "Shape", "Expand", "GatherND", "If", "Loop"}
    assert not noise & set(static.graph.nodes)
    sizes = {v.name: dims(v) for v in proto.graph.value_info}
    for node in proto.graph.node:
        for name in node.output:
            assert name == "video" or all(isinstance(d, int) and d > 0 for d in sizes[name]), name


def test_every_conv3d_has_the_weights_of_its_name(static):
    proto = onnx.load(static.output)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    upstream = wan(WAN_2_1)
    theirs = {n: w for n, w in upstream.named_parameters() if not n.startswith(("enc", "quant"))}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    conv3d = [node for node in convs if weights[node.input[1]].ndim == 5]
    assert len(conv3d) == static.graph.conv3d
    assert len(convs) == sum(n.endswith("weight") for n in theirs)
    assert static.graph.conv3d == sum(
        n.endswith("weight") and w.ndim == 5 for n, w in theirs.items()
    )
    for node in convs:
        assert node.name == node.input[1].removesuffix(".weight") + "/Conv"
        assert node.input[2] == node.input[1].removesuffix("weight") + "bias"
        for name in node.input[1:]:
            np.testing.assert_array_equal(weights[name], theirs[name].detach().numpy())


def test_the_graph_does_not_grow_with_the_clip(static, folder, tmp_path):
    longer = export(str(folder), tmp_path / "o.onnx", latent=(1, 4, 6, 5, 4), check=False)
    assert longer.graph.nodes == static.graph.nodes


def test_a_folder_of_two_shards(tmp_path):
    vae = wan(WAN_2_2)
    vae.save_pretrained(tmp_path / "vae", max_shard_size="40KB")
    names = sorted(path.name for path in (tmp_path / "vae").iterdir())
    assert len([name for name in names if name.endswith(".safetensors")]) == 2
    assert "diffusion_pytorch_model.safetensors.index.json" in names
    result = export(str(tmp_path / "vae"), tmp_path / "o.onnx", latent=LATENT, check=False)
    assert result.seed is None
    assert_equal_to_upstream(result.output, vae, LATENT)


def test_a_dynamic_graph_at_sizes_not_seen_at_export(dynamic):
    vae, result = dynamic
    assert result.dynamic == ("T", "H", "W")
    assert len(result.checked) == 3
    for sizes in [(4, 7, 5), (2, 1, 1), (1, 4, 9)]:
        assert sizes not in {shape[2:] for shape in result.checked}
        assert_equal_to_upstream(result.output, vae, (1, 4, *sizes))


def test_a_dynamic_graph_names_its_sizes(dynamic):
    _, result = dynamic
    proto = onnx.load(result.output)
    onnx.checker.check_model(proto, full_check=True)
    assert dims(proto.graph.input[0]) == [1, 4, "T", "H", "W"]
    batch, channels, *sizes = dims(proto.graph.output[0])
    assert (batch, channels) == (1, 3)
    assert all(isinstance(size, str) for size in sizes)


def test_by_default_the_latent_is_3_frames_of_16x16(traced, folder, tmp_path):
    result = export(str(folder), tmp_path / "o.onnx", check=False)
    assert result.latent == (1, 4, 3, 16, 16)


def test_a_preset_with_a_seed_is_described(traced, tmp_path, monkeypatch):
    from models.source import FAMILIES

    small = replace(FAMILIES[0], presets={"small": WAN_2_1})
    monkeypatch.setattr("models.source.FAMILIES", (small,))
    result = export("small", tmp_path / "o.onnx", seed=5, check=False)
    notes = {p.key: p.value for p in onnx.load(result.output).metadata_props}
    assert result.seed == 5
    assert notes["export_vae.weights"] == "random, seed 5"


def shift_reference(monkeypatch, amount):
    original = WanDecoder.reference
    monkeypatch.setattr(WanDecoder, "reference", lambda self, z: original(self, z) + amount)


def test_a_difference_leaves_nothing_behind(traced, folder, tmp_path, monkeypatch):
    shift_reference(monkeypatch, 3e-5)
    result = export(str(folder), tmp_path / "o.onnx", latent=LATENT)
    assert not result.equal
    assert not result.written
    assert result.max_abs_error == pytest.approx(3e-5, rel=0.1)
    assert "different from upstream's decode" in result.sentence()
    assert not list(tmp_path.iterdir())


def test_a_difference_within_the_tolerance_is_written(traced, folder, tmp_path, monkeypatch):
    shift_reference(monkeypatch, 3e-5)
    result = export(str(folder), tmp_path / "o.onnx", latent=LATENT, tolerance=4e-5)
    assert result.written
    assert "equal to upstream's decode" in result.sentence()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_upstream_that_makes_no_numbers(traced, folder, tmp_path, monkeypatch, value):
    shift_reference(monkeypatch, float(value))
    sentence = refusal(str(folder), tmp_path / "o.onnx", latent=LATENT)
    assert sentence.startswith("upstream itself makes NaN or infinity")
    assert not list(tmp_path.iterdir())


def test_the_worst_of_all_checked_sizes_counts(traced, folder, tmp_path, monkeypatch):
    original = WanDecoder.reference
    later = itertools.cycle([0.0, 1e-3, 0.0])
    monkeypatch.setattr(WanDecoder, "reference", lambda self, z: original(self, z) + next(later))
    monkeypatch.setattr(module, "UNSEEN_SIZES", (LATENT[2:], LATENT[2:]))
    result = export(str(folder), tmp_path / "o.onnx", latent=LATENT, dynamic=True)
    assert result.max_abs_error == pytest.approx(1e-3, rel=0.01)


def test_a_video_of_another_shape(traced, folder, tmp_path, monkeypatch):
    original = WanDecoder.reference
    monkeypatch.setattr(WanDecoder, "reference", lambda self, z: original(self, z)[:, :, 1:])
    sentence = refusal(str(folder), tmp_path / "o.onnx", latent=LATENT)
    assert "(1, 3, 9, 20, 16)" in sentence
    assert not list(tmp_path.iterdir())


def test_without_a_check_no_onnxruntime_is_needed(traced, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = export(str(folder), tmp_path / "o.onnx", latent=LATENT, check=False)
    assert result.written
    assert result.max_abs_error is None
    assert "not checked" in result.sentence()
    assert "onnxruntime is not installed" in refusal(str(folder), tmp_path / "p.onnx")


def test_large_weights_go_beside_the_model(traced, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "AUTO_EXTERNAL_BYTES", 1000)
    result = export(str(folder), tmp_path / "o.onnx", latent=LATENT)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["o.onnx", "o.onnx.data"]
    assert result.graph.file_bytes == sum(file.stat().st_size for file in files)
    assert_equal_to_upstream(result.output, wan(WAN_2_1), LATENT)


@pytest.mark.parametrize("phase", ["open", "trace", "write", "check"])
def test_an_interruption_leaves_what_was_there(traced, folder, tmp_path, phase):
    def interrupt(name):
        if name == phase:
            raise KeyboardInterrupt

    (tmp_path / "o.onnx").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        export(str(folder), tmp_path / "o.onnx", latent=LATENT, overwrite=True, notify=interrupt)
    assert [file.name for file in tmp_path.iterdir()] == ["o.onnx"]
    assert (tmp_path / "o.onnx").read_text() == "before"


def test_an_existing_file_is_replaced_only_if_asked(traced, folder, tmp_path):
    out = tmp_path / "o.onnx"
    out.write_text("before")
    assert f"{out} exists; give --overwrite" in refusal(str(folder), out, latent=LATENT)
    assert out.read_text() == "before"
    assert export(str(folder), out, latent=LATENT, overwrite=True).written
    assert out.stat().st_size > 1000


def test_a_missing_folder_of_the_output(folder, tmp_path):
    assert "does not exist" in refusal(str(folder), tmp_path / "no" / "o.onnx")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write")
def test_an_unwritable_folder_is_known_before_any_work(folder):
    phases = []
    with pytest.raises(OSError, match=r"\[Errno"):
        export(str(folder), "/proc/o.onnx", notify=phases.append)
    assert phases == []


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 16, 3, 8, 8), "the latent 1x16x3x8x8 (NxCxTxHxW) does not fit: C is 16, but"),
        ((1, 4, 0, 8, 8), "T is 0, but must be at least 1"),
        ((1, 4, 8, 8), "the latent 1x4x8x8 has 4 sizes; give five, NxCxTxHxW"),
    ],
)
def test_a_latent_that_does_not_fit(folder, tmp_path, shape, complaint):
    assert complaint in refusal(str(folder), tmp_path / "o.onnx", latent=shape)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [17, 26])
def test_an_opset_out_of_range(folder, tmp_path, opset):
    sentence = refusal(str(folder), tmp_path / "o.onnx", opset=opset)
    assert sentence == f"opset {opset} cannot be exported: take 18 to 25."


@pytest.mark.parametrize("missing", ["torch", "diffusers", "onnxscript", "safetensors"])
def test_a_missing_package_names_the_extra(folder, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    sentence = refusal(str(folder), tmp_path / "o.onnx")
    assert sentence.startswith(f"{missing} cannot be imported")
    assert "pip install 'convert-vae[export]'" in sentence


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried",
        "[ONNXRuntimeError] : 1 : FAIL : Load model from o.onnx failed:std::bad_alloc",
        "[ONNXRuntimeError] : 6 : BFCArena::AllocateRawInternal(size_t) Failed to allocate memory",
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, UserError, RunError])
def test_exhausted_memory_is_told_from_other_errors(
    traced, folder, tmp_path, monkeypatch, words, kind
):
    def fail(message):
        def reference(self, z):
            raise kind(message)

        monkeypatch.setattr(WanDecoder, "reference", reference)

    fail(words)
    with pytest.raises(MemoryError):
        export(str(folder), tmp_path / "o.onnx", latent=LATENT)
    fail("another")
    with pytest.raises(kind, match="another"):
        export(str(folder), tmp_path / "o.onnx", latent=LATENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.published
def test_wan_2_1_at_its_published_size(tmp_path):
    result = export("wan2.1", tmp_path / "o.onnx", seed=0, latent=(1, 16, 2, 8, 8), dynamic=True)
    assert result.written
    assert result.video == (1, 3, 5, 64, 64)
    assert result.graph.conv3d == 34
    assert 73.2e6 < result.graph.parameters < 73.4e6
    z = latent(1, 16, 3, 4, 6)
    video = run(result.output, z)
    assert 0.05 < video.std() < 0.3
    assert np.abs(video).max() < 1
    os.unlink(result.output)
