"""The passes of one page: redundant Expand, L2 norms spelt out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converter.passes.redundant_expand import drop_redundant_expands
from converter.passes.sum_of_squares import spell_out_l2_norms
from converter.surgeon import Surgery, close_model, open_model

X = np.random.default_rng(3).standard_normal((2, 4, 3)).astype(np.float32)


def build(nodes: list, constants: dict, outputs: list[str], opset: int = 18, dtype: int = 1):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, list(X.shape))],
        [helper.make_tensor_value_info(o, dtype, [None] * 3) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def after(proto: onnx.ModelProto, action) -> tuple[int, Counter, onnx.ModelProto]:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    surgery: Surgery = open_model(copy)
    count = action(surgery)
    close_model(surgery)
    onnx.checker.check_model(copy)
    return count, Counter(n.op_type for n in copy.graph.node), copy


def expand(consumer: str, *, constant_shape: tuple[int, ...] = (2, 4, 3), outputs=("y",)):
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Expand", ["m", "shape"], ["e"]),
        helper.make_node(consumer, ["x", "e"], ["y"]),
    ]
    constants = {"axes": np.array([1]), "shape": np.array(constant_shape)}
    return build(nodes, constants, list(outputs))


@pytest.mark.parametrize("consumer", ["Add", "Div", "Mul", "Sub", "Max"])
def test_expand_before_a_broadcasting_operator_goes(consumer: str) -> None:
    proto = expand(consumer)
    count, ops, changed = after(proto, drop_redundant_expands)
    assert count == 1
    assert "Expand" not in ops
    np.testing.assert_array_equal(
        ReferenceEvaluator(changed).run(None, {"x": X})[0],
        ReferenceEvaluator(proto).run(None, {"x": X})[0],
    )


def test_expand_that_shapes_the_result_stays() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Expand", ["m", "shape"], ["e"]),
        helper.make_node("Add", ["m", "e"], ["y"]),
    ]
    proto = build(nodes, {"axes": np.array([1]), "shape": np.array([2, 4, 3])}, ["y"])
    assert after(proto, drop_redundant_expands)[0] == 0


@pytest.mark.parametrize("proto", [expand("Add", outputs=("y", "e")), expand("MatMul")])
def test_expand_that_is_an_output_or_read_otherwise_stays(proto: onnx.ModelProto) -> None:
    if proto.graph.node[2].op_type == "MatMul":
        proto.graph.node[2].op_type = "Concat"
        proto.graph.node[2].attribute.append(helper.make_attribute("axis", 1))
    count, ops, _ = after(proto, drop_redundant_expands)
    assert count == 0
    assert ops["Expand"] == 1


def l2(opset: int, dtype: int = TensorProto.FLOAT, keepdims: int = 1):
    if opset >= 18:
        node = helper.make_node("ReduceL2", ["x", "axes"], ["y"], keepdims=keepdims)
        return build([node], {"axes": np.array([1])}, ["y"], opset, dtype)
    node = helper.make_node("ReduceL2", ["x"], ["y"], axes=[1], keepdims=keepdims)
    return build([node], {}, ["y"], opset, dtype)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 17, 18])
def test_l2_norm_spelt_out(opset: int, keepdims: int) -> None:
    count, ops, changed = after(l2(opset, keepdims=keepdims), spell_out_l2_norms)
    assert count == 1
    assert ops == {"Mul": 1, "ReduceSum": 1, "Sqrt": 1}
    (y,) = ReferenceEvaluator(changed).run(None, {"x": X})
    expected = np.sqrt((X.astype(np.float64) ** 2).sum(axis=1, keepdims=bool(keepdims)))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_l2_norm_stays_in_half_precision_and_before_opset_13() -> None:
    assert after(l2(18, TensorProto.FLOAT16), spell_out_l2_norms)[0] == 0
    assert after(l2(11), spell_out_l2_norms)[0] == 0
