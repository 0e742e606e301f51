"""Weights of an exported graph stored in half precision, each behind a Cast to float32."""

from __future__ import annotations

from functools import partial

from converter.model_file import Model
from converter.weights import Computed

SUFFIX = ".float32"
"""Of the tensor that the Cast makes: the weight itself keeps its PyTorch name."""


def store(model: Model, weights: str) -> None:
    """Store as `weights` (`float16` or `bfloat16`) all bulky weights that lose nothing by it.

    The decoder's own weights were rounded before. What the export made of them, such as a product
    of two, may need more digits and stays in float32.
    """
    import ml_dtypes
    import numpy as np
    from onnx import TensorProto, helper

    kinds = {
        "float16": (np.dtype(np.float16), TensorProto.FLOAT16),
        "bfloat16": (np.dtype(ml_dtypes.bfloat16), TensorProto.BFLOAT16),
    }
    dtype, elem_type = kinds[weights]
    graph = model.proto.graph
    casts = {}
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or not model.weights.holds(initializer):
            continue
        array = model.weights.array(initializer)
        if not np.array_equal(array.astype(dtype).astype(np.float32), array):
            continue

        initializer.data_type = elem_type
        model.weights.put(initializer, Computed(partial(array.astype, dtype)))
        casts[initializer.name] = initializer.name + SUFFIX
        made = helper.make_tensor_value_info(
            initializer.name + SUFFIX, TensorProto.FLOAT, list(initializer.dims)
        )
        graph.value_info.append(made)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = casts.get(name, name)
    nodes = [
        helper.make_node("Cast", [name], [made], name=f"{name}/Cast", to=TensorProto.FLOAT)
        for name, made in casts.items()
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
