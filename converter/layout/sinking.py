"""Frame-major from end to end: transposes sink through the graph until they cancel.

Each rewritten Conv enters frame-major layout and leaves it again. Between two of them stand norms,
activations, residual sums and paddings that do not mind the order of axes. So a tensor that is
only another *view* of one that exists (its axes in another order, with or without axes of size 1)
is not made: what consumes it is rewritten to consume the source, and its result is again a view.

    before: A -Transpose-> x -Sigmoid-> y -Transpose-> z -Conv2D->
    after:  A -Sigmoid-> z -Conv2D->

Only views that begin where frame-major layout is left sink; a transpose elsewhere, attention's for
instance, stays where it is. Where an operator has no rule in
`converter.layout.rules`, or a graph output asks for the original layout, the view is made.

The idea of sinking transposes is the transpose optimizer's of onnxruntime and of tf2onnx; both
stop at the reshapes that video decoders put around their convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from converter.constants import Workshop
from converter.layout.context import Context
from converter.layout.rules import RULES
from converter.layout.view import View
from converter.surgeon import Surgery
from converter.weights import WeightTable

SWAP_5D = (0, 2, 1, 3, 4)
SWAP_4D = (1, 0, 2, 3)


@dataclass(frozen=True)
class LayoutReport:
    """What the pass did: Transpose nodes before and after, and where each view's tensor now is.

    Attributes:
        moved: Name of a tensor that is no longer made -> of which tensor it is what view.
    """

    transposes_before: int
    transposes_after: int
    moved: dict[str, View]


def make_frame_major(surgery: Surgery, weights: WeightTable) -> LayoutReport:
    """Sink the views that begin where frame-major layout is left, in every graph.

    Args:
        surgery: An open model with shapes; changed in place.
        weights: The model's bulky tensors.

    Returns:
        What was done.
    """
    before = _transposes(surgery)
    shop = Workshop(surgery, weights)
    moved: dict[str, View] = {}
    for graph in surgery.graphs():
        moved |= _Sinking(graph, Context(surgery, weights, shop)).run()
    return LayoutReport(before, _transposes(surgery), moved)


class _Sinking:
    """One walk over a graph in topological order."""

    def __init__(self, graph: gs.Graph, context: Context) -> None:
        self._graph = graph
        self._context = context
        self._outputs = {t.name for t in graph.outputs}
        self._made: set[str] = set()
        self._idle = {id(node) for node in graph.nodes if not self._used(node)}

    def run(self) -> dict[str, View]:
        views = self._context.views
        for node in list(self._graph.nodes):
            self._visit(node)
        for tensor in self._graph.outputs:
            self._make(tensor)
        self._graph.nodes = self._without_unused(self._context.nodes)
        return {
            name: view
            for name, view in views.items()
            if name not in self._made and name != view.source.name
        }

    def _visit(self, node: gs.Node) -> None:
        context = self._context
        rule = RULES.get(node.op) if node.domain in (None, "", "ai.onnx") else None
        self._begin(node)
        lazy = any(t.name in context.views for t in node.inputs)
        if rule is not None and lazy and rule(node, context):
            node.inputs.clear()
            node.outputs.clear()
            return
        for index, tensor in enumerate(node.inputs):
            view = context.views.get(tensor.name)
            if view is not None and view.is_identity and tensor.name not in self._made:
                node.inputs[index] = view.source
        for tensor in _all_inputs(node):
            self._make(tensor)
        context.nodes.append(node)

    def _begin(self, node: gs.Node) -> None:
        """Where frame-major layout is left, its tensor becomes the source of a view: itself."""
        if not _leaves_frames(node):
            return
        x = node.inputs[0]
        if x.name not in self._context.views and x.shape is not None:
            self._context.views[x.name] = View(x, tuple(range(len(x.shape))))

    def _without_unused(self, nodes: Sequence[gs.Node]) -> list[gs.Node]:
        """Drop nodes that this pass left without use; what had none before stays as it was."""
        kept = []
        for node in reversed(nodes):
            if self._used(node) or id(node) in self._idle:
                kept.append(node)
            else:
                node.inputs.clear()
        return list(reversed(kept))

    def _used(self, node: gs.Node) -> bool:
        return any(t.outputs or t.name in self._outputs for t in node.outputs)

    def _make(self, tensor: gs.Tensor) -> None:
        """Make a lazy tensor under its own name, once."""
        view = self._context.views.get(tensor.name)
        if view is None or view.source is tensor or tensor.name in self._made:
            return
        self._made.add(tensor.name)
        self._context.materialize(view, tensor)


def _leaves_frames(node: gs.Node) -> bool:
    """Whether a node is the first of those that lead out of frame-major layout.

    1. Transpose (N, T, C, H, W) -> (N, C, T, H, W), as rewrites and exporters write it;
    2. Transpose (T, C, H, W) -> (C, T, H, W), then Unsqueeze, as rewrites write it for N = 1;
    3. Reshape or Unsqueeze (T, C, H, W) -> (1, T, C, H, W) in front of 1.
    """
    if node.op == "Transpose":
        perm = tuple(node.attrs.get("perm", ()))
        return perm == SWAP_5D or (
            perm == SWAP_4D and _only_consumer(node, "Unsqueeze") is not None
        )
    if node.op in ("Reshape", "Unsqueeze"):
        consumer = _only_consumer(node, "Transpose")
        return consumer is not None and tuple(consumer.attrs.get("perm", ())) == SWAP_5D
    return False


def _only_consumer(node: gs.Node, op: str) -> gs.Node | None:
    consumers = node.outputs[0].outputs
    return consumers[0] if len(consumers) == 1 and consumers[0].op == op else None


def _all_inputs(node: gs.Node) -> list[gs.Tensor]:
    """A node's inputs and what its nested graphs read from outside."""
    tensors = list(node.inputs)
    for nested in node.subgraphs(recursive=True):
        for inner in nested.nodes:
            tensors.extend(inner.inputs)
        tensors.extend(nested.outputs)
    return tensors


def _transposes(surgery: Surgery) -> int:
    return sum(node.op == "Transpose" for graph in surgery.graphs() for node in graph.nodes)
