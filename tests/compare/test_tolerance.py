import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.compare.tolerance import (
    BF16,
    DOUBLE,
    FP16,
    FP32,
    Tolerance,
    for_types,
    round_down,
    round_up,
    working_types,
)
from tests.compare.graphs import conv3d, model

F32, F16, BF, F64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
)


def test_limits_are_the_stated_ones():
    assert Tolerance(250, 1e-12) == DOUBLE
    assert Tolerance(90, 1e-4) == FP32
    assert Tolerance(60, 1e-2) == FP16
    assert Tolerance(42, 8e-2) == BF16  # three bits less than fp16: 18 dB and 8 times the error


def test_another_least_psnr_loosens_single_elements_by_as_much_and_never_tightens_them():
    assert FP32.at(70).min_psnr_db == 70
    assert FP32.at(70).max_abs_of_range == pytest.approx(1e-3)
    assert FP32.at(120) == Tolerance(120, 1e-4)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((F32,), FP32),
        ((F64,), DOUBLE),
        ((F64, F32), FP32),
        ((F16, F32), FP16),
        ((F16, BF), BF16),
        ((TensorProto.INT64,), FP32),
        ((TensorProto.INT64, F64), DOUBLE),
    ],
)
def test_the_coarsest_float_sets_the_limits(types, expected):
    assert for_types(*types) is expected


def weights(elem_type, name="w"):
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    return numpy_helper.from_array(np.ones((2, 2, 1, 1, 1)).astype(dtype), name)


def graph(nodes, initializers):
    return model(nodes, [("x", F32, [1, 2, 1, 2, 2])], [("y", F32, None)], initializers)


CONV = helper.make_node("Conv", ["x", "v"], ["y"])


@pytest.mark.parametrize("elem_type", [F32, F16, BF, F64])
def test_weights_count_by_their_own_type(elem_type):
    assert working_types(conv3d(elem_type)) == {elem_type}


def test_stored_weights_count_by_the_type_they_are_cast_to():
    nodes = [
        helper.make_node("Identity", ["w"], ["i"]),
        helper.make_node("Cast", ["i"], ["v"], to=F32),
        CONV,
    ]
    assert working_types(graph(nodes, [weights(BF)])) == {F32}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
@pytest.mark.parametrize("mover", ["Identity", "Reshape", "Transpose"])
def test_weights_count_in_every_product_however_they_get_there(op, mover):
    nodes = [helper.make_node(mover, ["w"], ["v"]), helper.make_node(op, ["x", "v"], ["y"])]
    assert working_types(graph(nodes, [weights(F16)])) == {F16}


@pytest.mark.parametrize("value", [{"value_float": 2.0}, {"value_floats": [2.0]}])
def test_a_constant_of_plain_floats_is_fp32(value):
    nodes = [helper.make_node("Constant", [], ["v"], **value), CONV]
    assert working_types(graph(nodes, [])) == {F32}


def test_quantized_weights_count_by_the_type_of_their_scale():
    scale = numpy_helper.from_array(np.float16(0.5), "s")
    stored = numpy_helper.from_array(np.ones((2, 2, 1, 1, 1), np.int8), "w")
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["v"]), CONV]
    assert working_types(graph(nodes, [stored, scale])) == {F16}


def test_constant_nodes_are_weights():
    nodes = [helper.make_node("Constant", [], ["v"], value=weights(F16)), CONV]
    assert working_types(graph(nodes, [])) == {F16}


def test_rounded_activations_count():
    nodes = [
        helper.make_node("Cast", ["x"], ["r"], to=BF),
        helper.make_node("Cast", ["r"], ["f"], to=F32),
        helper.make_node("Conv", ["f", "v"], ["y"]),
    ]
    assert working_types(graph(nodes, [weights(F32, "v")])) == {BF, F32}


def test_of_a_cast_its_target_counts_if_it_is_a_float():
    nodes = [
        helper.make_node("Cast", ["x"], ["r"], saturate=0, to=F16),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.INT64),
    ]
    assert working_types(graph(nodes, [])) == {F16}


def test_subgraphs_see_outer_weights():
    body = helper.make_graph([CONV], "body", [], [helper.make_tensor_value_info("y", F32, None)])
    test = numpy_helper.from_array(np.bool_(True), "c")
    branch = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    outer = model(
        [branch], [("x", F32, [1, 2, 1, 2, 2])], [("z", F32, None)], [test, weights(F16, "v")]
    )
    assert working_types(outer) == {F16}


def test_local_functions_are_read():
    rounded = helper.make_function(
        "local", "Round", ["x"], ["y"], [helper.make_node("Cast", ["x"], ["y"], to=F16)],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    outer = graph([helper.make_node("Round", ["x"], ["y"], domain="local")], [])
    outer.functions.append(rounded)
    assert working_types(outer) == {F16}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0.0), (1.0, 1.0), (0.1, 0.1), (0.101, 0.11), (0.00123, 0.0013), (9.99, 10.0)],
)
def test_round_up_to_two_digits(value, expected):
    assert round_up(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(90.0, 90.0), (89.99, 89.9), (-3.01, -3.1), (math.inf, math.inf)]
)
def test_round_down_to_a_tenth(value, expected):
    assert round_down(value) == expected


def test_rounding_never_tightens():
    for value in np.random.default_rng(0).lognormal(0, 6, 2000):
        assert value <= round_up(value) <= 1.11 * value
        assert value - 0.11 <= round_down(value) <= value
