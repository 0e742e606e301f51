"""ReduceL2 as Mul, ReduceSum and Sqrt, which the CPU provider computes over ten times faster.

    before: x -ReduceL2(axes)-> norm
    after:  x -Mul(x, x)-ReduceSum(axes)-Sqrt-> norm

onnxruntime reduces a channel axis by walking strided columns for ReduceL2; Mul is vectorised and
ReduceSum has a fast path for it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from converter.surgeon import Surgery, replace_node

WIDE_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def spell_out_l2_norms(surgery: Surgery) -> int:
    """Replace each ReduceL2 of fp32 or double; in fp16 the squares would overflow.

    Preconditions:
        1. The opset is at least 13: ReduceSum takes its axes as an input from then on.
        2. ReduceL2 has its axes where ReduceSum of that opset has them, or as an attribute.

    Returns:
        How many were replaced.
    """
    if surgery.opset < 13:
        return 0
    replaced = 0
    for graph in surgery.graphs():
        for node in [n for n in graph.nodes if n.op == "ReduceL2"]:
            x, norm = node.inputs[0], node.outputs[0]
            if x.dtype not in WIDE_FLOATS or not (node.attrs.get("axes") or len(node.inputs) > 1):
                continue
            attributes = {k: v for k, v in node.attrs.items() if k != "axes"}
            axes = node.inputs[1:]
            if "axes" in node.attrs:
                name = surgery.unique_name(f"{norm.name}/axes")
                axes = [gs.Constant(name, np.array(node.attrs["axes"], np.int64))]
            square = _node(surgery, "Mul", [x, x], norm, "square", x.shape)
            total = _node(surgery, "ReduceSum", [square.outputs[0], *axes], norm, "sum", norm.shape)
            total.attrs = attributes
            inputs = [total.outputs[0]]
            root = gs.Node("Sqrt", surgery.unique_name(f"{norm.name}/sqrt"), inputs=inputs)
            replace_node(graph, node, [square, total, root])
            root.outputs.append(norm)
            replaced += 1
    return replaced


def _node(
    surgery: Surgery,
    op: str,
    inputs: list[gs.Tensor],
    norm: gs.Tensor,
    part: str,
    shape: list[int | str | None] | None,
) -> gs.Node:
    name = surgery.unique_name(f"{norm.name}/{part}")
    output = gs.Variable(name, norm.dtype, shape)
    return gs.Node(op, name, inputs=inputs, outputs=[output])
