"""How far two evaluations of one graph may differ, from the precision they are made in.

The fp32 limits are given: a PSNR of 90 dB is an RMS error of 3.2e-5 of the range, some 500 unit
roundoffs (2^-24), and no element may be off by more than 1e-4 of the range. double takes the same
multiples of its own roundoff (2^-53), rounded to the generous side.

At half precision such multiples would exceed the range itself, and every tensor between two
layers is rounded, not only the sums inside a layer. Two correct evaluations of random residual
networks of 4 to 80 convolutions (one product a layer, or one per tap) came out 79 to 67 dB apart
in fp16 and 60 to 49 dB in bfloat16, the largest error 4 to 5 times the RMS of some 30,000
elements. So fp16 is given 60 dB, an RMS error of two roundoffs (2^-11), and ten times that for
the worst of some millions of elements; bfloat16 keeps three bits less: 18 dB, and 8 times the
error.

Integers and booleans must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from converter.compare.jsonable import jsonable


@dataclass(frozen=True)
class Tolerance:
    """Least PSNR in dB, and largest absolute error as a fraction of the reference's range.

    Both must hold. Values that are not floats must be equal whatever the tolerance says.
    """

    min_psnr_db: float
    max_abs_of_range: float

    def __str__(self) -> str:
        return f"PSNR >= {self.min_psnr_db:g} dB and max abs <= {self.max_abs_of_range:g} of range"

    def at(self, min_psnr_db: float) -> Tolerance:
        """Another PSNR; if it is lower, single elements may be off by as much more as their RMS."""
        factor = 10 ** (max(0.0, self.min_psnr_db - min_psnr_db) / 20)
        return Tolerance(min_psnr_db, self.max_abs_of_range * factor)

    def to_json(self) -> dict[str, float | None]:
        """The two limits by name; a PSNR of inf, for equal values, is None."""
        fields: dict[str, float | None] = jsonable(self)
        return fields


DOUBLE = Tolerance(min_psnr_db=250.0, max_abs_of_range=1e-12)
FP32 = Tolerance(min_psnr_db=90.0, max_abs_of_range=1e-4)
FP16 = Tolerance(min_psnr_db=60.0, max_abs_of_range=1e-2)
BF16 = Tolerance(min_psnr_db=42.0, max_abs_of_range=8e-2)

# From the finest to the coarsest.
_LIMITS: dict[int, Tolerance] = {
    TensorProto.DOUBLE: DOUBLE,
    TensorProto.FLOAT: FP32,
    TensorProto.FLOAT16: FP16,
    TensorProto.BFLOAT16: BF16,
}
_FINENESS = tuple(_LIMITS)


def for_types(*elem_types: int) -> Tolerance:
    """The limits of the coarsest float among the ONNX element types; fp32's if there is none."""
    floats = [elem_type for elem_type in elem_types if elem_type in _LIMITS]
    return _LIMITS[max(floats, key=_FINENESS.index)] if floats else FP32


def working_types(model: onnx.ModelProto) -> set[int]:
    """Float types in which the model multiplies weights or to which it rounds activations.

    A Cast of a constant only says how weights are stored and does not count; what their consumer
    multiplies does.
    """
    found: set[int] = set()
    for nodes, constants in _scopes(model):
        types = dict(constants)
        for node in nodes:
            constant = bool(node.input) and node.input[0] in types
            if node.op_type == "Constant":
                types.update({node.output[0]: _constant_type(node)})
            elif node.op_type == "Cast":
                target = next((a.i for a in node.attribute if a.name == "to"), 0)
                if constant:
                    types[node.output[0]] = target
                else:
                    found.add(target)
            elif node.op_type == "DequantizeLinear":
                types[node.output[0]] = types.get(node.input[1], 0)
            elif node.op_type in ("Identity", "Reshape", "Transpose") and constant:
                types[node.output[0]] = types[node.input[0]]
            elif node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
                found.update(types[name] for name in node.input[:2] if name in types)
    return {elem_type for elem_type in found if elem_type in _LIMITS}


def round_up(value: float) -> float:
    """The least number of two significant digits that is not below `value`."""
    if value <= 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    rounded = math.ceil(value / unit) * unit
    shown = float(f"{rounded:.1e}")
    return shown if shown >= value else float(f"{rounded + unit:.1e}")


def round_down(value: float) -> float:
    """The largest multiple of 0.1 that is not above `value`."""
    if not math.isfinite(value):
        return value
    rounded = round(math.floor(value * 10) / 10, 1)
    return rounded if rounded <= value else round(rounded - 0.1, 1)


def _scopes(
    model: onnx.ModelProto,
) -> Iterator[tuple[list[onnx.NodeProto], dict[str, int]]]:
    """The nodes of every graph, subgraph and local function, with the types of its constants."""
    for function in model.functions:
        yield list(function.node), {}
        for node in function.node:
            yield from _bodies(node, {})
    yield from _graph_scopes(model.graph, {})


def _graph_scopes(
    graph: onnx.GraphProto, outer: dict[str, int]
) -> Iterator[tuple[list[onnx.NodeProto], dict[str, int]]]:
    constants = {**outer, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
    yield list(graph.node), constants
    for node in graph.node:
        yield from _bodies(node, constants)


def _bodies(
    node: onnx.NodeProto, outer: dict[str, int]
) -> Iterator[tuple[list[onnx.NodeProto], dict[str, int]]]:
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from _graph_scopes(graph, outer)


def _constant_type(node: onnx.NodeProto) -> int:
    for attribute in node.attribute:
        if attribute.name == "value":
            return int(attribute.t.data_type)
        if attribute.name in ("value_float", "value_floats"):
            return TensorProto.FLOAT
    return TensorProto.INT64
