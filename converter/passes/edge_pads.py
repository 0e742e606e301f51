"""A Pad that repeats the edge, as slices joined by Concat, for targets that lack the mode.

    before: x (..., D, ...) -Pad mode=edge, (b, e) on D-> y (..., b + D + e, ...)
    after:  x -Slice first, last of D-> Concat(first * b, x, last * e) on D -> y

Axis by axis: what a later axis repeats are the repetitions of the earlier ones, too, so corners
come out as they should.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from converter.constants import Workshop, constant_values
from converter.surgeon import Surgery, replace_node

END = 2**63 - 1
MOST = 16
"""Repetitions on one side; beyond, the Concat would grow out of proportion."""

Ends = dict[int, tuple[int, int]]
"""Axis -> how often its first and its last slice are repeated."""


def spell_out_edge_pads(surgery: Surgery, shop: Workshop) -> int:
    """Replace each Pad of mode `edge` that qualifies.

    Preconditions:
        1. The opset is at least 11: Pad takes its amounts, and Slice its bounds, as inputs.
        2. The amounts, and the axes if given, are constants; no amount is negative or over `MOST`.
        3. The rank is known where an axis is counted from the end.

    Returns:
        How many were replaced.
    """
    if surgery.opset < 11:
        return 0
    replaced = 0
    for graph in surgery.graphs():
        for node in [n for n in graph.nodes if n.op == "Pad" and n.attrs.get("mode") == "edge"]:
            ends = _ends(node, shop)
            if ends:
                y = node.outputs[0]
                nodes = _nodes(surgery, shop, node, ends)
                replace_node(graph, node, nodes)
                nodes[-1].outputs.clear()
                nodes[-1].outputs.append(y)
                replaced += 1
    return replaced


def _ends(node: gs.Node, shop: Workshop) -> Ends | None:
    inputs = [t if t.name else None for t in node.inputs] + [None, None]
    amounts = constant_values(node.inputs[1], shop.weights)
    if amounts is None:
        return None
    axes = list(range(amounts.size // 2))
    if inputs[3] is not None:
        given = constant_values(inputs[3], shop.weights)
        if given is None:
            return None
        rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
        if rank is None and given.min(initial=0) < 0:
            return None
        axes = [int(a) if a >= 0 else int(a) + (rank or 0) for a in given]
    pairs = amounts.reshape(2, len(axes)).T.tolist()
    if not all(0 <= amount <= MOST for pair in pairs for amount in pair):
        return None
    return {axis: (begin, end) for axis, (begin, end) in zip(axes, pairs, strict=True)}


def _nodes(surgery: Surgery, shop: Workshop, pad: gs.Node, ends: Ends) -> list[gs.Node]:
    """The nodes, of which the last makes what the Pad made, under another name."""
    y = pad.outputs[0]
    nodes: list[gs.Node] = []

    def add(op: str, inputs: list[gs.Tensor], part: str, **attributes: int) -> gs.Tensor:
        name = surgery.unique_name(f"{y.name}/{part}")
        output = gs.Variable(name, y.dtype)
        nodes.append(gs.Node(op, name, attributes, inputs=inputs, outputs=[output]))
        return output

    def slice_of(x: gs.Tensor, axis: int, start: int, end: int, part: str) -> gs.Tensor:
        bounds = [shop.ints([start]), shop.ints([end]), shop.ints([axis])]
        return add("Slice", [x, *bounds], part)

    x = pad.inputs[0]
    for axis, (begin, end) in ends.items():
        parts = [x]
        if begin:
            parts = [slice_of(x, axis, 0, 1, f"first{axis}")] * begin + parts
        if end:
            parts = parts + [slice_of(x, axis, -1, END, f"last{axis}")] * end
        if len(parts) > 1:
            x = add("Concat", parts, f"edge{axis}", axis=axis)
    if not nodes:
        add("Identity", [x], "edge")
    return nodes
