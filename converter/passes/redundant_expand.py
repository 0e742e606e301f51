"""An Expand in front of an operator that broadcasts anyway is dropped.

before: norm (N, 1, T, H, W) -Expand-> (N, C, T, H, W) -Div- x
after:  norm (N, 1, T, H, W) ----------------------------Div- x
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from converter.surgeon import Surgery, drop_unused

BROADCASTING = ("Add", "Div", "Mul", "Sub", "Pow", "Max", "Min", "Where", "PRelu")


def drop_redundant_expands(surgery: Surgery) -> int:
    """Drop Expands whose every consumer broadcasts to the same shape without them.

    Preconditions, for each consumer:
        1. It broadcasts its inputs (Multidirectional Broadcasting, ONNX docs/Broadcasting.md).
        2. Another of its inputs already has, axis by axis, the shape that the Expand makes.

    Returns:
        How many were dropped.
    """
    dropped = 0
    for graph in surgery.graphs():
        outputs = {t.name for t in graph.outputs}
        for node in [n for n in graph.nodes if n.op == "Expand"]:
            small, big = node.inputs[0], node.outputs[0]
            if big.name in outputs or not all(_broadcasts(c, big) for c in big.outputs):
                continue
            for consumer in list(big.outputs):
                for index, tensor in enumerate(consumer.inputs):
                    if tensor is big:
                        consumer.inputs[index] = small
            dropped += drop_unused(graph, node, outputs)
    return dropped


def _broadcasts(consumer: gs.Node, big: gs.Tensor) -> bool:
    if consumer.op not in BROADCASTING or big.shape is None:
        return False
    if consumer.op == "PRelu" and consumer.inputs[0] is big:
        return False
    shape = list(big.shape)
    return None not in shape and any(
        other is not big and other.shape is not None and list(other.shape) == shape
        for other in consumer.inputs
    )
