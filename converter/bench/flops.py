"""The arithmetic of a graph as it is written: two operations a multiply-add, nothing saved.

Padding counts as if it were multiplied, as is usual. The cheap operators (norms, activations,
copies) do not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import AttributeProto, NodeProto

from converter import model_file
from converter.bench.shapes import Shape, known_shapes, with_shapes
from converter.surgeon import walk


@dataclass(frozen=True)
class Arithmetic:
    """Operations by operator, and the names of nodes that could not be counted."""

    operations: Mapping[str, int]
    uncounted: tuple[str, ...]

    @property
    def total(self) -> int | None:
        """All operations; None if some could not be counted, or there are none."""
        return None if self.uncounted else sum(self.operations.values()) or None


def direct_arithmetic(path: Path, feed_shapes: Mapping[str, Shape]) -> Arithmetic:
    """Count the graph at `path` on inputs of those shapes.

    Raises:
        UserError: the file is not a valid ONNX model.
    """
    graph = with_shapes(model_file.load(path).proto, feed_shapes).graph
    shapes = known_shapes(graph)
    operations: dict[str, int] = {}
    uncounted = []
    for node in graph.node:
        if node.op_type in _COUNTERS and node.domain in ("", "ai.onnx"):
            count = _count(node, shapes)
            if count is None:
                uncounted.append(_name(node))
            else:
                operations[node.op_type] = operations.get(node.op_type, 0) + count
        # How often a branch or a loop's body runs is not known beforehand.
        uncounted += [_name(n) for n in _nested(node) if n.op_type in _COUNTERS]
    return Arithmetic(operations, tuple(uncounted))


def _nested(node: NodeProto) -> Iterator[NodeProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from walk(attribute.g.node)


def _name(node: NodeProto) -> str:
    return node.name or node.output[0]


def _count(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    names = (*node.input[:2], node.output[0])
    if not all(name in shapes for name in names):
        return None
    left, right, out = (shapes[name] for name in names)
    return 2 * _COUNTERS[node.op_type](node, left, right, out)


def _conv(node: NodeProto, x: Shape, w: Shape, y: Shape) -> int:
    """Each element of y (N, O, ...) is a sum over a kernel of w (O, C/group, ...)."""
    return math.prod(y) * math.prod(w[1:])


def _conv_transpose(node: NodeProto, x: Shape, w: Shape, y: Shape) -> int:
    """Each element of x (N, C, ...) is spread by a kernel of w (C, O/group, ...)."""
    return math.prod(x) * math.prod(w[1:])


def _matmul(node: NodeProto, a: Shape, b: Shape, y: Shape) -> int:
    """As numpy.matmul: y has the batch; the last axis of a is summed over."""
    return math.prod(y) * a[-1]


def _gemm(node: NodeProto, a: Shape, b: Shape, y: Shape) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(y) * a[0 if transposed else 1]


_COUNTERS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}
