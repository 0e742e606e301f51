"""Every family's converted decoder on the real partitioners: each node placed, and a run.

Proven: which provider gets which node of the released packages, and that a session is made and
runs. Not proven: numbers and speed, because the stand-ins' kernels do nothing.
"""

import onnx
import pytest

from converter import convert, convert_stream
from converter.convert import Options
from converter.manifest import FIRST, NEXT, read
from converter.placement import place
from converter.strictness import more_than_shapes
from models.source import FAMILIES
from tests.rocm.asking import ask

pytestmark = pytest.mark.rocm

NAMES = [family.name for family in FAMILIES]
PRECISIONS = {
    "fp32": {},
    "fp16": {"precision": "fp16", "precision_scope": "all"},
    "bf16": {"precision": "bf16"},
}
IS_WORK = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Resize", "Pad", "Softmax"}
"""And norms, which are Reduce* and InstanceNormalization here."""


def converted(source, folder, precision, target, **options):
    path = folder / f"{precision}-{target}.onnx"
    settings = PRECISIONS[precision] | options
    result = convert(source, path, target=target, validate=False, overwrite=True, **settings)
    assert result.conv3d_left == 0
    return path, result.placement


def assert_whole(machine, paths, placements):
    """Every node is the provider's: in strict mode, optimized, run to the end."""
    answers = ask(machine, paths, optimize=True, strict=True, run=machine.runs)
    for path, placement, answer in zip(paths, placements, answers, strict=True):
        assert answer.get("error") is None, path.name
        assert answer["elsewhere"] == [], path.name
        assert (placement.complete, placement.shape_work) == (True, ()), path.name
        if machine.runs:
            outputs = onnx.load(path, load_external_data=False).graph.output
            shapes = [[d.dim_value for d in y.type.tensor_type.shape.dim] for y in outputs]
            assert answer["outputs"] == shapes, path.name


def assert_agreement(machine, paths, placements):
    """The static check sorts the nodes of the unoptimized graphs as the partitioner does."""
    for path, placement, answer in zip(paths, placements, ask(machine, paths), strict=True):
        assert answer.get("error") is None, path.name
        elsewhere = set(answer["elsewhere"])
        assert elsewhere - set(placement.constants) == {
            *placement.shape_work,
            *(f.node for f in placement.fallbacks),
        }, path.name
        ops = {n.name: n.op_type for n in onnx.load(path, load_external_data=False).graph.node}
        fallen = {ops[name] for name in elsewhere - set(placement.constants)}
        shapes = [(ops[name], name) for name in placement.shape_work]
        assert more_than_shapes(str(path), shapes) == [], path.name
        assert not {op for op in fallen if op in IS_WORK or op.startswith(("Reduce", "Instance"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_static_decoder_is_on_rocm_alone(rocm, small_clip, tmp_path, name):
    made = [converted(small_clip(name), tmp_path, precision, "rocm") for precision in PRECISIONS]
    paths, placements = zip(*made, strict=True)
    assert_whole(rocm, paths, placements)
    assert_agreement(rocm, paths, placements)
    assert {onnx.load(path).opset_import[0].version for path in paths} == {18}


@pytest.mark.parametrize("name", NAMES)
def test_a_static_decoder_is_on_migraphx_alone(migraphx, small_clip, tmp_path, name):
    made = [converted(small_clip(name), tmp_path, p, "migraphx") for p in PRECISIONS]
    paths, placements = zip(*made, strict=True)
    assert_whole(migraphx, paths, placements)
    opsets = {path.name: onnx.load(path).opset_import[0].version for path in paths}
    assert list(opsets.values()) == [18, 18, 22]


@pytest.mark.parametrize(
    "name", ["Wan", *(pytest.param(name, marks=pytest.mark.long) for name in NAMES[1:])]
)
def test_of_a_dynamic_decoder_only_shape_arithmetic_is_elsewhere(
    rocm, migraphx, small_clip, tmp_path, name
):
    source = small_clip(name, dynamic=True)
    made = [converted(source, tmp_path, precision, "rocm") for precision in PRECISIONS]
    paths, placements = zip(*made, strict=True)
    assert all(placement.complete for placement in placements)
    assert_agreement(rocm, paths, placements)
    made = [converted(source, tmp_path, precision, "migraphx") for precision in PRECISIONS]
    assert_whole(migraphx, *zip(*made, strict=True))


@pytest.mark.parametrize("target", ["rocm", "migraphx"])
@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.long), 2])
def test_both_graphs_of_a_stream_are_on_the_provider_alone(
    request, small_stream, tmp_path, chunk, target
):
    machine = request.getfixturevalue(target)
    paths, placements = [], []
    for precision, settings in PRECISIONS.items():
        out = tmp_path / f"{precision}.json"
        options = Options(target=target, validate=False, **settings)
        result = convert_stream.run(small_stream(chunk), out, options, lambda phase: None)
        for role in (FIRST, NEXT):
            paths.append(read(out).path(role))
            placements.append(result.graphs[role].placement)
    assert_whole(machine, paths, placements)
    if target == "rocm":
        assert_agreement(machine, paths, placements)


@pytest.mark.parametrize(
    ("strategy", "left"), [("unfold", 0), ("taps", 0), ("winograd", 2), ("keep", 16)]
)
def test_every_strategy_is_on_rocm_alone(rocm, small_clip, tmp_path, strategy, left):
    path = tmp_path / "out.onnx"
    result = convert(small_clip("Wan"), path, target="rocm", strategy=strategy, validate=False)
    assert result.conv3d_left == left
    assert_whole(rocm, [path], [result.placement])
    assert_agreement(rocm, [path], [result.placement])


def test_at_the_newest_opset_the_check_and_the_partitioner_agree_too(rocm, small_clip, tmp_path):
    """Where much falls to the CPU."""
    path, placement = converted(small_clip("Wan"), tmp_path, "fp32", "rocm", opset=22)
    fallen = {f.node for f in placement.fallbacks}
    assert {"Conv"} < {f.op for f in placement.fallbacks}
    assert place(onnx.load(path), "rocm").to_json() == placement.to_json()
    [plain] = ask(rocm, [path])
    assert set(plain["elsewhere"]) - set(placement.constants) == fallen
