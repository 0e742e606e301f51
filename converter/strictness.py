"""Which nodes that a provider left to another one are more than shape arithmetic.

onnxruntime computes shapes on the CPU on purpose, because they are needed there to allocate memory.
The same operators on a video would mean copies to and fro.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from converter.assignment import Node
from converter.kernels import names
from converter.surgeon import infer_shapes

SHAPE_ARITHMETIC = names(
    "Add And Cast Ceil Concat ConstantOfShape Div Equal Expand Floor Gather Greater "
    "GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Range ReduceProd Reshape "
    "Shape Size Slice Split Squeeze Sub Unsqueeze Where"
)
"""Operators that compute shapes."""

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)


def more_than_shapes(model: str | bytes, elsewhere: Iterable[Node]) -> list[Node]:
    """The nodes that do more than compute shapes.

    A node is more than shape arithmetic if its operator computes no shapes, or if the model says
    that it makes floats of rank 2 or more: shapes are integers, scales are vectors. Of nodes that
    onnxruntime made itself, and of those without a name, only the operator is known.

    Args:
        model: The path of the model, or its bytes.
        elsewhere: Operator and name of what another provider runs.
    """
    nodes = list(elsewhere)
    large = _makers_of_large(model) if any(op in SHAPE_ARITHMETIC for op, _ in nodes) else set()
    return [(op, name) for op, name in nodes if op not in SHAPE_ARITHMETIC or name in large]


def _makers_of_large(model: str | bytes) -> set[str]:
    """Names of the nodes that are known to make floats of rank 2 or more; in nested graphs too."""
    if isinstance(model, bytes):
        proto = onnx.load_from_string(model)
    else:
        proto = onnx.load(model, load_external_data=False)
    found: set[str] = set()
    _collect(infer_shapes(proto).graph, found)
    return found


def _collect(graph: onnx.GraphProto, found: set[str]) -> None:
    large = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type in FLOATS and len(value.type.tensor_type.shape.dim) > 1
    }
    for node in graph.node:
        if node.name and large.intersection(node.output):
            found.add(node.name)
        for attribute in node.attribute:
            for nested in (attribute.g, *attribute.graphs):
                _collect(nested, found)
