"""A graph whose video is not clamped to [-1, 1], as tiles have to be when they are blended.

Diffusers clamps what it has blended; blending what is clamped is not the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from converter.errors import UserError

MOVES = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that a clamp may change places with; a Cast rounds 1 to 1 in every type."""
LIMITS = (-1.0, 1.0)


def unclamped(path: Path, video: str | None = None) -> bytes | None:
    """The serialized graph with its last Clip to [-1, 1] left out; None where it has none.

    The Clip may be followed by nodes that only move or round numbers. External data stays where it
    is: a session needs the folder of `path`.

    Args:
        path: The graph.
        video: Name of the output; the first where it is None.

    Raises:
        UserError: it cannot be read.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and the file system's
        raise UserError(f"the graph {path} cannot be read: {error}.") from error
    nodes = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    name = video or model.graph.output[0].name
    while (node := nodes.get(name)) is not None and node.op_type in MOVES:
        name = node.input[0]
        if len(readers[name]) > 1:
            return None
    if node is None or node.op_type != "Clip" or _limits(model, node) != LIMITS:
        return None
    # An Identity under the Clip's name: no reader of it need change.
    identity = onnx.helper.make_node("Identity", [node.input[0]], list(node.output), node.name)
    model.graph.node[list(model.graph.node).index(node)].CopyFrom(identity)
    content: bytes = model.SerializeToString()
    return content


def _limits(model: onnx.ModelProto, clip: onnx.NodeProto) -> tuple[float | None, float | None]:
    """The bounds of a Clip, None where they are not constants."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t

    def bound(place: int) -> float | None:
        name = clip.input[place] if len(clip.input) > place else ""
        if name not in constants:
            return None
        return float(np.asarray(numpy_helper.to_array(constants[name])).astype(np.float64))

    return bound(1), bound(2)
