"""Tiny ONNX graphs that the comparison tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VIDEO = (1, 2, 3, 6, 8)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def model(nodes, inputs, outputs, initializers=(), opset=18) -> onnx.ModelProto:
    """`inputs` and `outputs` are (name, element type, dims) triples."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        list(initializers),
    )
    ir_version = 10 if opset >= 22 else 8
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def conv3d(
    elem_type: int = TensorProto.FLOAT,
    dims=VIDEO,
    scale: float = 1.0,
    opset: int = 18,
    x: str = "x",
    y: str = "y",
    channels: int = 2,
    **attributes,
) -> onnx.ModelProto:
    """A 3x3x3 convolution of seeded weights; `scale` plants a fault in the first weight."""
    weights = np.random.default_rng(1).standard_normal((3, channels, 3, 3, 3)) / 8
    weights[0, 0, 1, 1, 1] *= scale
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    return model(
        [helper.make_node("Conv", [x, "w"], [y], **{"pads": [1] * 6, **attributes})],
        [(x, elem_type, list(dims))],
        [(y, elem_type, None)],
        [numpy_helper.from_array(weights.astype(dtype), "w")],
        opset,
    )
