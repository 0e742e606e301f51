"""Which tensor of a graph holds the output of each original Conv3D, and in what layout."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx

from converter.compare.feeds import Array

OUTPUTS_KEY = "convert_vae.outputs"
NCTHW = "NCTHW"


@dataclass(frozen=True)
class Holder:
    """A tensor and the meaning of its axes, such as "TCHW"; an axis it lacks has size 1."""

    tensor: str
    layout: str

    def undo(self, array: Array) -> Array:
        """The array as (N, C, T, H, W)."""
        missing = [axis for axis in NCTHW if axis not in self.layout]
        axes = [*missing, *self.layout]
        grown: Array = array.reshape(*([1] * len(missing)), *array.shape)
        return np.ascontiguousarray(grown.transpose([axes.index(axis) for axis in NCTHW]))

    def redo(self, array: Array) -> Array:
        """An (N, C, T, H, W) array as the tensor holds it."""
        kept = tuple(NCTHW.index(axis) for axis in self.layout)
        missing = tuple(axis for axis in range(5) if axis not in kept)
        return np.ascontiguousarray(
            array.transpose(*missing, *kept).reshape([array.shape[axis] for axis in kept])
        )


def holders(model: onnx.ModelProto) -> dict[str, Holder]:
    """By the provenance that conversion wrote; without one, the graph's own Conv3D outputs."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if OUTPUTS_KEY not in texts:
        return {name: Holder(name, NCTHW) for name in _conv3d_outputs(model)}
    try:
        found = json.loads(texts[OUTPUTS_KEY])
        return {
            name: Holder(str(entry["tensor"]), str(entry["layout"]))
            for name, entry in found.items()
            if set(entry["layout"]) <= set(NCTHW)
        }
    except (ValueError, AttributeError, TypeError, KeyError):
        return {}


def _conv3d_outputs(model: onnx.ModelProto) -> list[str]:
    """Of the main graph's Convs whose weights, or whose output as stated, are of rank 5."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for value in [*model.graph.value_info, *model.graph.output]:
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv" and 5 in (ranks.get(node.input[1]), ranks.get(node.output[0]))
    ]
