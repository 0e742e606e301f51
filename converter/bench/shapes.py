"""The shapes inside a graph, once those of its inputs are known.

ONNX's shape inference knows the value of a Shape node but not of all that exporters compute from
it. So such arithmetic is evaluated, put into the graph as constants, and inference is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from converter.session import Array
from converter.surgeon import default_opset, infer_shapes

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

SMALL = 64
"""Elements up to which a tensor may be part of the arithmetic on shapes."""


def with_shapes(model: onnx.ModelProto, feed_shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """A copy of a weight-free model, less its local functions, for inputs of those shapes."""
    model = inline_local_functions(model)
    # What an exporter states may name sizes that are numbers now.
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in feed_shapes:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            shape.dim.extend(
                onnx.TensorShapeProto.Dimension(dim_value=d) for d in feed_shapes[value.name]
            )
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(tensor.dims) <= SMALL
    }
    while True:
        inferred = infer_shapes(model)
        if not _fold(model, known_shapes(inferred.graph), constants):
            return inferred


def known_shapes(graph: onnx.GraphProto) -> Shapes:
    """Every tensor of the main graph whose shape is known to the last dimension."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        sizes = [d.dim_value for d in tensor.shape.dim if d.HasField("dim_value")]
        if tensor.HasField("shape") and len(sizes) == len(tensor.shape.dim):
            shapes[value.name] = tuple(sizes)
    return shapes


def _fold(model: onnx.ModelProto, shapes: Shapes, constants: dict[str, Array]) -> bool:
    """Make constants of what can be computed now; False if there is nothing."""
    graph = model.graph
    kept = []
    for node in graph.node:
        values = _evaluate(node, shapes, constants, default_opset(model))
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=True):
            constants[name] = value
            graph.initializer.append(numpy_helper.from_array(value, name))
    if len(kept) == len(graph.node):
        return False
    del graph.node[:]
    graph.node.extend(kept)
    return True


def _evaluate(
    node: NodeProto, shapes: Shapes, constants: Mapping[str, Array], opset: int
) -> list[Array] | None:
    """The node's outputs, if they are small and determined by now."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        dims = shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
        return [np.array(dims, np.int64)]
    known = all(name in constants for name in node.input if name)
    small = all(math.prod(shapes.get(name, (SMALL + 1,))) <= SMALL for name in node.output)
    nested = any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute)
    if not (known and small) or nested or node.domain not in ("", "ai.onnx"):
        return None
    try:
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        values = evaluator.run(None, {name: constants[name] for name in node.input if name})
    except Exception:  # the evaluator's own; a node that it cannot do stays as it is
        return None
    return [np.asarray(value) for value in values]
