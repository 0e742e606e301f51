"""How much memory a run of a graph takes, estimated from the graph without running it.

The shapes of all tensors follow from those of the inputs by ONNX shape inference. In the order
of the graph, a tensor lives from the node that makes it to the last that reads it; the most
that live at once is what a run needs beside the weights. What onnxruntime adds (copies in layouts
of its own, workspaces) is a measured factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from converter import model_file

OVERHEAD = 2.4
"""Measured over estimated, on the CPU provider, for a converted Wan 2.1 in chunks of 2: 2.0 to 2.4
for latents of 12x12 to 60x37."""


def run_bytes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Bytes of the tensors of a run, inputs and outputs included, at most; None if not known.

    Args:
        path: The graph.
        shapes: Of all inputs, and of outputs where they are known.
    """
    return tensors_at_once(model_file.parse(path)[0], shapes)


def tensors_at_once(original: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The same of a graph that is in memory, its bulky weights left out or not."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in (*graph.input, *graph.output):
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            shape = list(shapes[value.name])
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))
        else:
            value.type.tensor_type.ClearField("shape")
    graph.ClearField("value_info")
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    except shape_inference.InferenceError:
        return None
    sizes = {
        value.name: size
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.name not in weights and (size := _bytes(value)) is not None
    }
    if not {value.name for value in graph.output} <= set(sizes):
        return None
    return _most_at_once(graph, sizes)


def _most_at_once(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> int:
    kept = {value.name for value in (*graph.input, *graph.output)}
    last = {name: at for at, node in enumerate(graph.node) for name in node.input}
    alive = most = sum(sizes.get(value.name, 0) for value in graph.input)
    for at, node in enumerate(graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output)
        most = max(most, alive)
        over = {
            name
            for name in (*node.input, *node.output)
            if name not in kept and last.get(name, at) <= at
        }
        alive -= sum(sizes.get(name, 0) for name in over)
    return most


def _bytes(value: onnx.ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    count = math.prod(int(dim.dim_value) for dim in kind.shape.dim)
    return count * int(helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
