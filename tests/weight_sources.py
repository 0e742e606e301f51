"""The ways in which a Conv's weights can reach it; each makes a tensor named "w"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import SparseTensorProto, helper, numpy_helper

from tests.conv_case import ConvCase, Parts

Choice = tuple[dict[str, np.ndarray], np.ndarray]
"""What to feed, and the weights that the Conv then works with."""


def _values(case: ConvCase, dtype: str | None = None) -> np.ndarray:
    return case.draw(case.weight_shape, 1).astype(dtype or case.dtype)


def _fixed(w: np.ndarray) -> list[Choice]:
    return [({}, w)]


def initializer(case: ConvCase, parts: Parts) -> list[Choice]:
    parts.hold("w", _values(case))
    return _fixed(_values(case))


def constant(case: ConvCase, parts: Parts) -> list[Choice]:
    parts.add("Constant", [], "w", value=numpy_helper.from_array(_values(case)))
    return _fixed(_values(case))


def sparse_constant(case: ConvCase, parts: Parts) -> list[Choice]:
    parts.add("Constant", [], "w", sparse_value=sparse("w", _values(case)))
    return _fixed(_values(case))


def sparse(name: str, values: np.ndarray) -> SparseTensorProto:
    places = np.flatnonzero(values)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values.ravel()[places], name),
        numpy_helper.from_array(places, f"places_of_{name}"),
        values.shape,
    )


def identity(case: ConvCase, parts: Parts) -> list[Choice]:
    parts.add("Identity", [parts.hold("stored", _values(case))], "passed")
    parts.add("Identity", ["passed"], "w")
    return _fixed(_values(case))


def cast_from_half(case: ConvCase, parts: Parts) -> list[Choice]:
    return _cast(case, parts, "float16")


def cast_from_double(case: ConvCase, parts: Parts) -> list[Choice]:
    return _cast(case, parts, "float64")


def _cast(case: ConvCase, parts: Parts, stored: str) -> list[Choice]:
    # Drawn in the stored precision: a relayout that skips the Cast's rounding would show.
    w = case.draw(case.weight_shape, 1).astype(np.float64) * (1 if case.integers else np.pi)
    w = w.astype(stored)
    parts.add("Cast", [parts.hold("stored", w)], "w", to=case.elem_type)
    return _fixed(w.astype(case.dtype))


def dequantize(case: ConvCase, parts: Parts) -> list[Choice]:
    return _dequantize(case, parts, (), None)


def dequantize_axis_0(case: ConvCase, parts: Parts) -> list[Choice]:
    return _dequantize(case, parts, (case.weight_shape[0],), 0)


def dequantize_axis_1(case: ConvCase, parts: Parts) -> list[Choice]:
    return _dequantize(case, parts, (case.weight_shape[1],), 1)


def dequantize_axis_minus_4(case: ConvCase, parts: Parts) -> list[Choice]:
    return _dequantize(case, parts, (case.weight_shape[1],), -4)


def dequantize_no_zero_point(case: ConvCase, parts: Parts) -> list[Choice]:
    return _dequantize(case, parts, (), None, zero_point=False)


def dequantize_blocks(case: ConvCase, parts: Parts) -> list[Choice]:
    """Blocks of two along axis 1 (opset 21)."""
    shape = list(case.weight_shape)
    shape[1] = -(-shape[1] // 2)
    return _dequantize(case, parts, tuple(shape), 1, block_size=2)


def _dequantize(
    case: ConvCase,
    parts: Parts,
    scale_shape: tuple[int, ...],
    axis: int | None,
    *,
    zero_point: bool = True,
    **attributes: int,
) -> list[Choice]:
    rng = np.random.default_rng((case.seed, 3))
    quantized = rng.integers(-4, 5, case.weight_shape).astype(np.int8)
    steps = np.array([0.5, 1.0, 2.0] if case.integers else [0.1, 0.03, 0.7], np.float32)
    scale = steps[rng.integers(0, 3, scale_shape)]
    zero = rng.integers(-1, 2, scale_shape).astype(np.int8) * zero_point
    inputs = [parts.hold("quantized", quantized), parts.hold("scale", scale)]
    if zero_point:
        inputs.append(parts.hold("zero_point", zero))
    if axis is not None:
        attributes["axis"] = axis
    parts.add("DequantizeLinear", inputs, "w", **attributes)
    return _fixed(_dequantized(quantized, scale, zero, axis))


def _dequantized(
    quantized: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None
) -> np.ndarray:
    """(q - zero) * scale in float32, as the operator says."""

    def spread(value: np.ndarray) -> np.ndarray:
        if value.ndim == 1:
            shape = [1] * 5
            shape[axis] = -1
            return value.reshape(shape)
        if value.ndim == 5:
            return np.repeat(value, 2, axis=1)[:, : quantized.shape[1]]
        return value

    return (quantized.astype(np.float32) - spread(zero).astype(np.float32)) * spread(scale)


def graph_input(case: ConvCase, parts: Parts) -> list[Choice]:
    w = _values(case)
    parts.inputs.append(helper.make_tensor_value_info("w", case.elem_type, w.shape))
    return [({"w": w}, w), ({"w": -w}, -w)]


def computed(case: ConvCase, parts: Parts) -> list[Choice]:
    w = _values(case)
    parts.inputs.append(helper.make_tensor_value_info("gain", case.elem_type, [1]))
    parts.add("Mul", [parts.hold("stored", w), "gain"], "w")
    gains = [np.array([value], case.dtype) for value in (1, 2)]
    return [({"gain": gain}, w * gain) for gain in gains]


def folded(case: ConvCase, parts: Parts) -> list[Choice]:
    """Constant, but only after arithmetic: as weight normalisation leaves it."""
    w = _values(case)
    parts.hold("stored", w.transpose(1, 0, 2, 3, 4))
    parts.add("Transpose", ["stored"], "turned", perm=[1, 0, 2, 3, 4])
    parts.add("Mul", ["turned", parts.hold("gain", np.array(2, case.dtype))], "w")
    return _fixed(w * w.dtype.type(2))


def overridable(case: ConvCase, parts: Parts) -> list[Choice]:
    """An initializer that is a graph input too is a default: from IR 4 on a feed replaces it."""
    w = _values(case)
    parts.hold("w", w)
    parts.inputs.append(helper.make_tensor_value_info("w", case.elem_type, w.shape))
    return [({}, w), ({"w": -w}, -w)]


def also_an_output(case: ConvCase, parts: Parts) -> list[Choice]:
    parts.hold("w", _values(case))
    parts.outputs.append(helper.make_tensor_value_info("w_out", case.elem_type, case.weight_shape))
    parts.add("Identity", ["w"], "w_out")
    return _fixed(_values(case))


Source = Callable[[ConvCase, Parts], list[Choice]]
WEIGHT_SOURCES: dict[str, Source] = {
    source.__name__: source
    for source in (
        initializer,
        constant,
        sparse_constant,
        identity,
        cast_from_half,
        cast_from_double,
        dequantize,
        dequantize_axis_0,
        dequantize_axis_1,
        dequantize_axis_minus_4,
        dequantize_no_zero_point,
        dequantize_blocks,
        graph_input,
        computed,
        folded,
        overridable,
        also_an_output,
    )
}


def lowest_opset(source: str) -> int:
    """Where the source is legal, and the reference evaluator knows it too."""
    if source == "dequantize_blocks":
        return 21
    if source == "sparse_constant":
        return 12
    return 13 if source.startswith("dequantize") else 11


def bias(case: ConvCase, parts: Parts) -> np.ndarray | None:
    """Make the tensor "b" in the way that the case asks for; None where it has no bias."""
    if not case.bias:
        return None
    b = case.draw(case.weight_shape[:1], 2)
    if case.bias_from == "initializer":
        parts.hold("b", b)
    elif case.bias_from == "constant":
        parts.add("Constant", [], "b", value=numpy_helper.from_array(b))
    elif case.bias_from == "input":
        parts.ask("b", b)
    elif case.bias_from == "computed":
        parts.add("Neg", [parts.hold("minus_b", -b)], "b")
    else:
        raise ValueError(f"unknown bias source {case.bias_from}")
    return b


BIAS_SOURCES = ("initializer", "constant", "input", "computed")
