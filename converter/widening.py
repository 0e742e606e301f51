"""Nodes of a half-precision graph in fp32, where the target has no kernel for their type.

    before: x (bf16) -Op-> y (bf16)
    after:  x -Cast fp32-> Op -Cast bf16-> y

Op's operands are the same values, and its result is rounded once to the type that it had, as by a
kernel that takes the narrow type and sums in fp32. Weights stay narrow in the file, behind a Cast
that onnxruntime computes while loading. Graph inputs, outputs and every tensor that keeps its name
keep their types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from converter.kernels import GENERIC, Target
from converter.lowering import WIDE, keeps_values, main_tensors
from converter.native import why_not_native
from converter.opset import TARGET_OPSET
from converter.precision import (
    ELEMENT,
    NARROW_DTYPE,
    NEVER,
    Precision,
    wanted_opset,
)
from converter.surgeon import Surgery

PRECISION_OF: dict[object, Precision] = {dtype: name for name, dtype in NARROW_DTYPE.items()}


@dataclass(frozen=True)
class Widened:
    """What was done.

    Attributes:
        reasons: Why, in words -> how many nodes.
        renamed: Name of a widened node's first output -> the name that it had.
    """

    reasons: Mapping[str, int]
    renamed: Mapping[str, str]

    def sentence(self) -> str:
        """The count and the most frequent reason, or empty where nothing was done."""
        if not self.reasons:
            return ""
        nodes = (
            "1 node computes" if len(self.renamed) == 1 else f"{len(self.renamed)} nodes compute"
        )
        first, *more = self.reasons
        others = f" (and {len(more)} more such)" if more else ""
        return f"{nodes} in fp32 between Casts: {first}{others}"


def widen(surgery: Surgery, target: Target, opset: int | None) -> Widened:
    """Widen, in every graph, the nodes that the target has no kernel for in their narrow type.

    Args:
        surgery: An open model, changed in place.
        target: For `generic` nothing is done.
        opset: The opset that the model is to have; None for the target's choice.
    """
    reasons: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    if target != GENERIC:
        for graph in list(surgery.graphs()):
            pass_ = _Widening(graph, surgery, target, opset)
            pass_.run()
            reasons.update(pass_.reasons)
            renamed |= pass_.renamed
    return Widened(dict(reasons.most_common()), renamed)


@dataclass
class _Widening:
    """One walk over a graph in topological order.

    Attributes:
        wide: Name of a narrow tensor -> one of the wide type that holds its values.
    """

    graph: gs.Graph
    surgery: Surgery
    target: Target
    opset: int | None
    wide: dict[str, gs.Tensor] = field(default_factory=dict)
    nodes: list[gs.Node] = field(default_factory=list)
    casts_back: list[gs.Node] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    renamed: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            reason = self._reason(node)
            if reason:
                before = node.outputs[0].name
                self._widen(node)
                self.reasons[reason] += 1
                self.renamed[node.outputs[0].name] = before
            else:
                self.nodes.append(node)
        self._drop_unread()
        self.graph.nodes = self.nodes

    def _reason(self, node: gs.Node) -> str:
        """Why a node is to be widened, or empty."""
        found = main_tensors(node, self.surgery.opset)
        nested = any(isinstance(value, gs.Graph) for value in node.attrs.values())
        if found is None or node.op in NEVER or nested:
            return ""
        tensors = [*(node.inputs[i] for i in found[0]), *(node.outputs[i] for i in found[1])]
        types = {tensor.dtype for tensor in tensors}
        precision = PRECISION_OF.get(types.pop()) if len(types) == 1 else None
        if precision is None or not found[0]:
            return ""
        opset = self.opset or wanted_opset(precision, self.target) or TARGET_OPSET
        return why_not_native(node, opset, ELEMENT[precision], self.target)

    def _widen(self, node: gs.Node) -> None:
        found = main_tensors(node, self.surgery.opset)
        assert found is not None
        inputs, outputs, _ = found
        for i in inputs:
            node.inputs[i] = self._wide(node.inputs[i])
        self.nodes.append(node)
        for i in outputs:
            y = node.outputs[i]
            node.outputs[i] = self._variable(y, "fp32")
            self.casts_back.append(self._cast(node.outputs[i], _element(y), y))
            self.nodes.append(self.casts_back[-1])
            if keeps_values(node):
                self.wide[y.name] = node.outputs[i]

    def _wide(self, x: gs.Tensor) -> gs.Tensor:
        """The tensor's values in the wide type: cast once a graph."""
        if x.name not in self.wide:
            self.wide[x.name] = self._variable(x, "wide")
            self.nodes.append(self._cast(x, WIDE, self.wide[x.name]))
        return self.wide[x.name]

    def _drop_unread(self) -> None:
        """Leave out Casts back to the narrow type that nothing reads."""
        outputs = {t.name for graph in self.surgery.graphs() for t in graph.outputs}
        unread = [
            cast
            for cast in self.casts_back
            if not cast.outputs[0].outputs and cast.outputs[0].name not in outputs
        ]
        gone = {id(cast) for cast in unread}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        for cast in unread:
            cast.inputs.clear()
            cast.outputs.clear()

    def _variable(self, like: gs.Tensor, part: str) -> gs.Variable:
        name = self.surgery.unique_name(f"{like.name}/{part}")
        return gs.Variable(name, np.dtype(np.float32), like.shape)

    def _cast(self, x: gs.Tensor, to: int, y: gs.Tensor) -> gs.Node:
        name = self.surgery.unique_name(f"{y.name}/cast")
        return gs.Node("Cast", name, {"to": to}, inputs=[x], outputs=[y])


def _element(tensor: gs.Tensor) -> int:
    """The ONNX element type of a narrow tensor."""
    return int(tensor.dtype) if isinstance(tensor.dtype, int) else onnx.TensorProto.FLOAT16
