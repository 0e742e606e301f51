from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array

from converter import opset
from converter.errors import UserError
from converter.opset import LOWEST_OPSET, TARGET_OPSET, OpsetChange, retarget
from tests import small_models
from tests.execute import NEWEST_OPSET, run
from tests.small_models import draw, value

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT
PLANE = draw((1, 4, 6, 8))


class Op(NamedTuple):
    """One node of the input x and of constants, as a decoder's graph has it."""

    op: str
    x: np.ndarray
    constants: Sequence[np.ndarray | None] = ()
    attributes: dict[str, object] = {}  # noqa: RUF012
    outputs: int = 1

    def model(self, version: int) -> ModelProto:
        names = [f"c{i}" if c is not None else "" for i, c in enumerate(self.constants)]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, ["x", *names], outputs, self.op, **self.attributes)
        held = [from_array(c, n) for n, c in zip(names, self.constants, strict=True) if n]
        kind = helper.np_dtype_to_tensor_dtype(self.x.dtype)
        proto = small_models.model(
            [node],
            [value("x", self.x.shape, kind)],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            held,
            opset=version,
        )
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        inferred.ir_version = helper.find_min_ir_version_for(inferred.opset_import)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


ONE = np.float32([1.5])
DECODER = [
    *(Op(name, PLANE) for name in ("Relu", "Sigmoid", "Tanh", "Exp", "Neg", "Erf", "Identity")),
    *(Op(name, np.abs(PLANE)) for name in ("Sqrt", "Reciprocal", "Shape", "Size", "Floor", "Abs")),
    *(
        Op(name, PLANE, [ONE])
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Equal")
    ),
    Op("Pow", np.abs(PLANE), [ONE]),
    Op("Mod", ints(5, 6, 7), [ints(4)]),
    Op("Clip", PLANE, [np.float32(-1), np.float32(1)]),
    Op("LeakyRelu", PLANE, [], {"alpha": 0.2}),
    Op("Cast", PLANE, [], {"to": TensorProto.FLOAT16}),
    Op("Where", PLANE > 0, [PLANE, -PLANE]),
    Op("Conv", PLANE, [draw((5, 4, 3, 3), 1), draw((5,), 2)], {"pads": [1] * 4}),
    Op("Conv", draw((1, 4, 3, 6, 8)), [draw((5, 4, 3, 3, 3), 1)], {"pads": [1] * 6}),
    Op("ConvTranspose", PLANE, [draw((4, 5, 2, 2), 1)], {"strides": [2, 2]}),
    Op("MatMul", PLANE, [draw((8, 3), 1)]),
    Op("Gemm", draw((6, 8)), [draw((8, 3), 1), draw((3,), 2)], {"alpha": 0.5}),
    Op("Einsum", PLANE, [draw((8, 3), 1)], {"equation": "nchw,wo->ncho"}),
    Op("Softmax", PLANE, [], {"axis": -1}),
    *(Op(f"Reduce{how}", PLANE, [ints(1)]) for how in ("L2", "Mean", "Sum", "Max", "SumSquare")),
    Op("InstanceNormalization", PLANE, [draw((4,), 1), draw((4,), 2)]),
    Op("LayerNormalization", PLANE, [draw((8,), 1), draw((8,), 2)]),
    Op("LpNormalization", PLANE, [], {"axis": 1}),
    Op("Transpose", PLANE, [], {"perm": [0, 2, 3, 1]}),
    Op("Reshape", PLANE, [ints(1, 24, -1)]),
    Op("Flatten", PLANE, [], {"axis": 2}),
    Op("Squeeze", PLANE, [ints(0)]),
    Op("Unsqueeze", PLANE, [ints(2)]),
    Op("Expand", PLANE, [ints(2, 4, 6, 8)]),
    Op("Tile", PLANE, [ints(1, 2, 1, 1)]),
    Op("Concat", PLANE, [PLANE], {"axis": 1}),
    Op("Split", PLANE, [ints(1, 3)], {"axis": 1}, 2),
    Op("Split", PLANE, [], {"axis": 1, "num_outputs": 2}, 2),
    Op("Slice", PLANE, [ints(1), ints(5), ints(3), ints(2)]),
    Op("Gather", PLANE, [ints(2, 0)], {"axis": 1}),
    Op("GatherND", PLANE, [ints(0, 1).reshape(1, 2)]),
    Op("ScatterND", PLANE, [ints(0, 1).reshape(1, 2), draw((1, 6, 8), 1)]),
    Op("Pad", PLANE, [ints(0, 0, 1, 1, 0, 0, 1, 1)]),
    Op("Pad", PLANE, [ints(1, 1), np.float32(2), ints(-1)]),
    Op("Pad", PLANE, [ints(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "reflect"}),
    Op("Pad", PLANE, [ints(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "edge"}),
    Op(
        "Resize",
        PLANE,
        [None, np.float32([1, 1, 2, 2])],
        {
            "mode": "nearest",
            "nearest_mode": "floor",
            "coordinate_transformation_mode": "asymmetric",
        },
    ),
    Op("Resize", PLANE, [None, np.float32([1, 1, 2, 2])], {"mode": "linear"}),
    Op("Resize", PLANE, [None, None, ints(1, 4, 12, 16)], {"mode": "nearest"}),
    Op("DepthToSpace", PLANE, [], {"blocksize": 2}),
    Op("SpaceToDepth", PLANE, [], {"blocksize": 2}),
    Op("AveragePool", PLANE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Op("MaxPool", PLANE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Op("GlobalAveragePool", PLANE),
    Op("ConstantOfShape", ints(2, 3)),
    Op("CumSum", PLANE, [np.int64(1)]),
    Op("Trilu", PLANE[0, 0]),
    Op("QuantizeLinear", PLANE, [np.float32(0.1), np.int8(0)]),
    Op("DequantizeLinear", ints(1, 2).astype(np.int8), [np.float32(0.1), np.int8(0)]),
]


def label(op: Op) -> str:
    return "-".join([op.op, *(str(v) for k, v in op.attributes.items() if k == "mode")])


# onnxruntime 1.31 knows no opset beyond 26; the newest one runs in ONNX's reference evaluator.
@pytest.mark.parametrize("before", [26, NEWEST_OPSET])
@pytest.mark.parametrize("op", DECODER, ids=label)
def test_what_decoders_use_comes_down_to_the_target_with_equal_numbers(op, before):
    proto = op.model(before)
    expected = run(proto, {"x": op.x})
    assert retarget(proto, None) == OpsetChange(before, TARGET_OPSET)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == TARGET_OPSET
    assert proto.ir_version <= opset.TARGET_IR_VERSION
    got = run(proto, {"x": op.x})
    for name, array in expected.items():
        # Two programs, or two versions of one: a few roundings of fp32, of values around 1.
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", DECODER, ids=label)
def test_what_decoders_use_goes_up_from_the_target_with_equal_numbers(op):
    proto = op.model(TARGET_OPSET)
    expected = run(proto, {"x": op.x})
    assert retarget(proto, 26) == OpsetChange(TARGET_OPSET, 26)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version >= helper.find_min_ir_version_for(proto.opset_import)
    for name, array in run(proto, {"x": op.x}).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)


def one(
    op: str, inputs: Sequence[str], version: int, outputs: int = 1, **attributes: object
) -> ModelProto:
    """One node on float inputs of rank 4 whose types are all that is known."""
    names = [f"y{i}" for i in range(outputs)]
    return small_models.model(
        [helper.make_node(op, inputs, names, "it", **attributes)],
        [value(name, [None] * 4) for name in inputs if name],
        [value(name, [None] * 4) for name in names],
        opset=version,
    )


def bf16(proto: ModelProto) -> ModelProto:
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = TensorProto.BFLOAT16
    return proto


def behind_an_unknown_operator() -> ModelProto:
    proto = one("Conv", ["x", "w"], 22)
    proto.graph.node.insert(0, helper.make_node("Own", ["x"], ["own"], domain="own"))
    proto.graph.node[1].input[0] = "own"
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def in_a_function(version: int) -> ModelProto:
    """A model of opset 22 with a local function that imports `version`."""
    imports = [helper.make_opsetid("", version)]
    negate = helper.make_node("Neg", ["a"], ["b"])
    function = helper.make_function("own", "F", ["a"], ["b"], [negate], imports)
    return small_models.model(
        [helper.make_node("F", ["x"], ["y"], domain="own")],
        [value("x", [None])],
        [value("y", [None])],
        opset=22,
        functions=[function],
    )


def in_a_body() -> ModelProto:
    def body(name: str, op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["x"], [name], f"{name}_node")
        return helper.make_graph([node], name, [], [value(name, [None])])

    branches = {"then_branch": body("a", "Gelu"), "else_branch": body("b", "Relu")}
    return small_models.model(
        [helper.make_node("If", ["c"], ["y"], **branches)],
        [value("x", [None]), value("c", [], TensorProto.BOOL)],
        [value("y", [None])],
        opset=20,
    )


BLOCKERS = {
    "unknown there": (one("Gelu", ["x"], 20), 18, "Gelu (node 'it') does not exist at opset 18"),
    "in a body": (in_a_body(), 18, "Gelu (node 'a_node') does not exist at opset 18"),
    "deprecated": (one("Upsample", ["x", "s"], 9), 10, "is deprecated at opset 10"),
    "more inputs": (one("ReduceMean", ["x", "axes"], 18), 17, "takes other inputs at opset 13"),
    "fewer inputs": (one("Gemm", ["x", "w"], 13), 9, "takes other inputs at opset 9"),
    "outputs": (
        one("MaxPool", ["x"], 10, 2, kernel_shape=[2, 2]),
        7,
        "has other outputs at opset 1",
    ),
    "input left out": (one("Resize", ["x", "", "s"], 13), 11, "needs the input 'roi' at opset 11"),
    "attribute": (
        one("ReduceMean", ["x"], 17, axes=[1]),
        18,
        "has no attribute 'axes' at opset 18",
    ),
    "default": (one("Shape", ["x"], 15, start=1), 13, "has no attribute 'start' at opset 13"),
    "type": (bf16(one("Conv", ["x", "w"], 22)), 18, "does not take tensor(bfloat16) at opset 11"),
    "unknown type": (behind_an_unknown_operator(), 18, "handles 'own', whose type is not known"),
    "function": (in_a_function(21), 18, "a local function imports another opset than the model"),
}


@pytest.mark.parametrize(("proto", "target", "reason"), BLOCKERS.values(), ids=BLOCKERS)
def test_what_blocks_a_change_is_said_and_nothing_is_changed(proto, target, reason):
    untouched = proto.SerializeToString()
    before = proto.opset_import[0].version
    change = retarget(proto, target)
    assert change.before == change.after == before
    assert [b for b in change.blockers if reason in b] == list(change.blockers[:1])
    assert change.sentence() == f"opset {before} kept: {change.blockers[0]}"
    assert proto.SerializeToString() == untouched


def test_without_the_list_changed_defaults_and_names_still_block(monkeypatch):
    monkeypatch.setattr(opset, "MEANING_CHANGED", {})
    change = retarget(one("Softmax", ["x"], 13), 11)
    assert "has another default for 'axis' at opset 11" in change.blockers[0]
    assert not retarget(one("Softmax", ["x"], 13, axis=1), 11).blockers
    inputs = ["x", "s", "b", "m", "v"]
    change = retarget(one("BatchNormalization", inputs, 9), 14)
    assert "takes 'input_mean' in place of 'mean'" in change.blockers[0]


def pool(name: str, version: int, **attributes: object) -> ModelProto:
    return one(name, ["x"], version, kernel_shape=[2, 2], **attributes)


# Each crosses the version at which its operator changed its meaning: first with, then without
# what the change concerns.
CHANGED: dict[str, tuple[Callable[[], ModelProto], int, Callable[[], ModelProto] | None]] = {
    "AveragePool 7": (
        lambda: pool("AveragePool", 6, pads=[1] * 4),
        7,
        lambda: pool("AveragePool", 6),
    ),
    "AveragePool 19": (
        lambda: pool("AveragePool", 19, ceil_mode=1),
        18,
        lambda: pool("AveragePool", 19, ceil_mode=0),
    ),
    "BatchNormalization": (lambda: one("BatchNormalization", list("xsbmv"), 13), 14, None),
    "DFT": (lambda: one("DFT", ["x"], 20), 19, None),
    "GridSample": (lambda: one("GridSample", ["x", "g"], 20, mode="nearest"), 18, None),
    "GroupNormalization": (
        lambda: one("GroupNormalization", ["x", "s", "b"], 20, num_groups=2),
        21,
        None,
    ),
    "Hardmax": (lambda: one("Hardmax", ["x"], 13, axis=1), 12, None),
    "LogSoftmax": (lambda: one("LogSoftmax", ["x"], 12, axis=1), 13, None),
    "MaxPool": (lambda: pool("MaxPool", 22, ceil_mode=1), 18, lambda: pool("MaxPool", 22)),
    "PRelu": (lambda: one("PRelu", ["x", "s"], 6), 7, None),
    "Pad": (
        lambda: one("Pad", ["x", "p"], 19, mode="wrap"),
        18,
        lambda: pad_model(),
    ),
    "Resize 11": (lambda: one("Resize", ["x", "s"], 10), 11, None),
    "Resize 19": (
        lambda: one(
            "Resize", ["x", "", "s"], 19, coordinate_transformation_mode="half_pixel_symmetric"
        ),
        18,
        lambda: one("Resize", ["x", "", "s"], 19),
    ),
    "ScatterND": (
        lambda: scatter("ScatterND", "max"),
        17,
        lambda: scatter("ScatterND", "add"),
    ),
    "ScatterElements": (
        lambda: scatter("ScatterElements", "min"),
        17,
        lambda: scatter("ScatterElements", "none"),
    ),
    "Softmax": (lambda: one("Softmax", ["x"], 12, axis=1), 13, None),
    "Split": (lambda: one("Split", ["x"], 17, 2), 18, None),
}


def typed(proto: ModelProto, **types: int) -> ModelProto:
    for info in proto.graph.input:
        info.type.tensor_type.elem_type = types.get(info.name, FLOAT)
    return proto


def pad_model() -> ModelProto:
    return typed(one("Pad", ["x", "p"], 19, mode="reflect"), p=INT64)


def scatter(op: str, reduction: str) -> ModelProto:
    return typed(one(op, ["x", "i", "u"], 18, reduction=reduction), i=INT64)


@pytest.mark.parametrize(("blocked", "target", "free"), CHANGED.values(), ids=CHANGED)
def test_an_operator_does_not_cross_the_version_that_changed_its_meaning(blocked, target, free):
    change = retarget(blocked(), target)
    assert len(change.blockers) == 1
    assert " since opset " in change.blockers[0]
    if free:
        assert retarget(free(), target).blockers == ()


@pytest.mark.parametrize("name", sorted(opset.MEANING_CHANGED))
def test_versions_of_the_list_are_versions_of_the_operator(name):
    known = {
        s.since_version
        for s in onnx.defs.get_all_schemas_with_history()
        if s.name == name and s.domain == ""
    }
    for version, _, reason in opset.MEANING_CHANGED[name]:
        assert version in known
        assert reason.endswith(f"since opset {version}")


@pytest.mark.parametrize(
    ("before", "after"),
    [(9, 11), (10, 11), (11, 11), (13, 13), (17, 17), (18, 18), (19, 18), (NEWEST_OPSET, 18)],
)
def test_by_default_the_opset_goes_to_the_nearest_that_suits(before, after):
    proto = one("Relu", ["x"], before)
    assert retarget(proto, None) == OpsetChange(before, after)
    assert proto.opset_import[0].version == after


@pytest.mark.parametrize("version", range(LOWEST_OPSET, NEWEST_OPSET + 1))
def test_a_wish_is_granted_up_and_down(version):
    for before in (LOWEST_OPSET, 18, NEWEST_OPSET):
        proto = one("Relu", ["x"], before)
        assert retarget(proto, version) == OpsetChange(before, version)
        onnx.checker.check_model(proto)
        assert proto.opset_import[0].version == version


def test_an_opset_that_onnx_does_not_know_is_refused():
    with pytest.raises(UserError, match=f"opset {NEWEST_OPSET + 1} is not known .* {NEWEST_OPSET}"):
        retarget(one("Relu", ["x"], 18), NEWEST_OPSET + 1)


def test_attributes_that_the_target_lacks_go_if_they_are_at_their_default():
    proto = one("Cast", ["x"], 24, to=FLOAT, saturate=1, round_mode="up")
    assert not retarget(proto, 18).blockers
    assert [a.name for a in proto.graph.node[0].attribute] == ["to"]
    proto = one("Cast", ["x"], 24, to=FLOAT, saturate=0)
    assert "has no attribute 'saturate' at opset 13" in retarget(proto, 18).blockers[0]


def test_an_operator_that_did_not_change_keeps_its_attributes():
    proto = one("Concat", ["x"], 22, axis=1)
    before = proto.graph.node[0].SerializeToString()
    assert not retarget(proto, 18).blockers
    assert proto.graph.node[0].SerializeToString() == before


def test_functions_go_along():
    proto = in_a_function(22)
    assert retarget(proto, 18) == OpsetChange(22, 18)
    assert proto.functions[0].opset_import[0].version == 18


def test_other_domains_are_left_alone():
    proto = one("Relu", ["x"], 22)
    proto.graph.node.append(helper.make_node("Gelu", ["y0"], ["z"], domain="com.microsoft"))
    proto.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    assert not retarget(proto, 18).blockers
    assert [(i.domain, i.version) for i in proto.opset_import] == [("com.microsoft", 1), ("", 18)]


def test_a_newer_opset_comes_with_the_ir_version_that_it_needs():
    proto = one("Relu", ["x"], 18)
    proto.ir_version = 8
    retarget(proto, 24)
    assert proto.ir_version == 12
    retarget(proto, 17)
    assert proto.ir_version == 10


def test_several_blockers_are_counted_and_equal_ones_are_one():
    proto = one("Gelu", ["x"], 20)
    proto.graph.node.append(helper.make_node("StringConcat", ["s", "s"], ["t"], "strings"))
    change = retarget(proto, 18)
    assert len(change.blockers) == 2
    assert change.sentence().endswith("does not exist at opset 18 (and 1 more)")


def test_sentences():
    assert OpsetChange(18, 18).sentence() == "opset 18"
    assert OpsetChange(22, 18).sentence() == "opset 22 -> 18"


def test_sequences_and_optionals_have_types_too():
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    proto = small_models.model(
        [
            helper.make_node("SequenceConstruct", ["x"], ["s"]),
            helper.make_node("Identity", ["s"], ["t"]),
            helper.make_node("Optional", ["t"], ["o"]),
            helper.make_node("Identity", ["o"], ["p"]),
        ],
        [value("x", [None])],
        [helper.make_value_info("p", helper.make_optional_type_proto(sequence))],
        opset=22,
    )
    assert not retarget(proto, 18).blockers
    assert "does not take" in retarget(proto, 13).blockers[0]
