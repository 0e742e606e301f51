"""Converted decoders on the real partitioners: every node on the provider, and a run to its end."""

import onnx
import pytest

from converter import convert
from converter.export import export
from converter.placement import place
from tests.rocm.asking import ask
from tests.small_decoders import WAN_2_1, wan

pytestmark = pytest.mark.rocm

LATENT = (1, 4, 3, 5, 4)
VIDEO = [1, 3, 9, 20, 16]
PRECISIONS = {
    "fp32": {},
    "fp16": {"precision": "fp16", "precision_scope": "all"},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Exported decoders by name: of fixed sizes, and of any."""
    folder = tmp_path_factory.mktemp("decoders")
    wan(WAN_2_1).save_pretrained(folder / "wan")
    for name, dynamic in (("static", False), ("dynamic", True)):
        path = folder / f"{name}.onnx"
        export(str(folder / "wan"), path, latent=LATENT, dynamic=dynamic, check=False)
    return folder


def converted(folder, name, precision, target):
    path = folder / f"{name}-{precision}-{target}.onnx"
    result = convert(
        folder / f"{name}.onnx",
        path,
        target=target,
        validate=False,
        overwrite=True,
        **PRECISIONS[precision],
    )
    assert result.conv3d_left == 0
    return path, result.placement


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_static_decoder_is_on_rocm_alone(rocm, clips, precision):
    path, placement = converted(clips, "static", precision, "rocm")
    assert placement.complete
    assert placement.shape_work == ()
    [strict] = ask(rocm, [path], optimize=True, strict=True, run=True)
    assert strict.get("error") is None
    assert strict["elsewhere"] == []
    assert strict["outputs"] == [VIDEO]
    [plain] = ask(rocm, [path])
    assert set(plain["elsewhere"]) <= set(placement.constants)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_of_a_dynamic_decoder_only_shape_arithmetic_is_elsewhere(rocm, clips, precision):
    path, placement = converted(clips, "dynamic", precision, "rocm")
    assert placement.complete
    [plain] = ask(rocm, [path], run=True)
    assert plain["outputs"] == [[1, 3, 9, 12, 12]]  # Of a latent of 3 frames of 3x3.
    assert set(plain["elsewhere"]) - set(placement.constants) == set(placement.shape_work)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_migraphx_takes_a_decoder_whole(migraphx, clips, name, precision):
    path, placement = converted(clips, name, precision, "migraphx")
    assert placement.complete
    [strict] = ask(migraphx, [path], optimize=True, strict=True)
    assert strict.get("error") is None
    assert strict["elsewhere"] == []
    if precision == "bf16":
        assert onnx.load(path).opset_import[0].version == 22


def test_at_the_newest_opset_the_check_and_the_partitioner_agree_too(rocm, clips):
    """Where much falls to the CPU."""
    path = clips / "newest.onnx"
    result = convert(
        clips / "static.onnx", path, target="rocm", opset=22, validate=False, overwrite=True
    )
    fallen = {f.node for f in result.placement.fallbacks}
    assert {"Conv"} < {f.op for f in result.placement.fallbacks}
    assert place(onnx.load(path), "rocm").to_json() == result.placement.to_json()
    [plain] = ask(rocm, [path])
    assert set(plain["elsewhere"]) - set(result.placement.constants) == fallen
