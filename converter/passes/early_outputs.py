"""Outputs are made as soon as they can be, so that what they are made of is freed.

    before: ... x1 ... x2 ... x3 ... video; cache3 of x3; cache2 of x2; cache1 of x1
    after:  ... x1; cache1 of x1 ... x2; cache2 of x2 ... x3; cache3 of x3 ... video

The order of nodes in a file binds no runtime. onnxruntime derives its own (the constructor of
`GraphViewer`, onnxruntime/core/graph/graph_viewer.cc): it takes the nodes whose outputs no node
reads, the last one in the file first, and runs each with all that it needs. With the video's node
last, every tensor that a cache is cut from is kept until the video is done.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from converter.surgeon import Surgery


def make_outputs_early(surgery: Surgery) -> int:
    """Move the nodes that end a main graph behind all others: what needs the most nodes first.

    Preconditions:
        1. None of a moved node's outputs is read by any node, nested graphs included, so every
           place behind its own producers is a legal one.

    Returns:
        How many nodes end the graph.
    """
    graph = surgery.graph
    read = _read(surgery)
    ends = [n for n in graph.nodes if not any(t.name in read for t in n.outputs)]
    others = [n for n in graph.nodes if any(t.name in read for t in n.outputs)]
    needs = _Needs(others)
    ends.sort(key=needs.count, reverse=True)
    graph.nodes = [*others, *ends]
    return len(ends)


def _read(surgery: Surgery) -> set[str]:
    """The names of all tensors that a node or the end of a nested graph reads."""
    names = {t.name for graph in surgery.graphs() for n in graph.nodes for t in n.inputs}
    nested = (graph for graph in surgery.graphs() if graph is not surgery.graph)
    return names | {t.name for graph in nested for t in graph.outputs}


class _Needs:
    """How many nodes must have run before a node can."""

    def __init__(self, nodes: list[gs.Node]) -> None:
        self._index = {t.name: i for i, node in enumerate(nodes) for t in node.outputs}
        self._nodes = nodes

    def count(self, node: gs.Node) -> int:
        seen: set[int] = set()
        waiting = [node]
        while waiting:
            for name in _inputs(waiting.pop()):
                index = self._index.get(name)
                if index is not None and index not in seen:
                    seen.add(index)
                    waiting.append(self._nodes[index])
        return len(seen)


def _inputs(node: gs.Node) -> list[str]:
    names = [t.name for t in node.inputs]
    for nested in node.subgraphs(recursive=True):
        names += [t.name for inner in nested.nodes for t in inner.inputs]
        names += [t.name for t in nested.outputs]
    return names
