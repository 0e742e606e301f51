"""Lower precision in a linked graph: weights stored narrow, activations rounded, types restored.

A lowered node takes one of two forms. `NATIVE`, where the runtime has a kernel for the narrow type:

    x -Cast narrow-> Op(narrow weights) -Cast back-> y

`ROUNDED`, where it has not: the operands hold narrow values in fp32, and so does the result.

    x -Cast narrow-Cast fp32-> Op -Cast narrow-Cast fp32-> y
    narrow weights -Cast fp32--^

Both multiply the same values; they differ only in how the sums inside the operator are rounded.
Casts that would undo each other between two lowered nodes are not made. A tensor that keeps its
name keeps its type and its meaning, rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx
import onnx.defs
import onnx.helper
import onnx_graphsurgeon as gs

from converter.constants import Array, Workshop, constant_shape, constant_values, is_constant
from converter.kernels import names
from converter.surgeon import Surgery

Form = Literal["native", "rounded"]
NATIVE: Form = "native"
ROUNDED: Form = "rounded"

SUFFIX: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
WIDE = onnx.TensorProto.FLOAT

Decide = Callable[[gs.Node], Form | None]
"""The form in which a node is lowered, or None where it stays as it is."""


def lower(surgery: Surgery, shop: Workshop, narrow: int, decide: Decide) -> dict[str, str]:
    """Lower every node that `decide` takes, in every graph.

    Args:
        surgery: An open model, changed in place.
        shop: Makes the narrow constants.
        narrow: The ONNX element type: FLOAT16 or BFLOAT16.
        decide: Asked once for each node.

    Returns:
        For each lowered node, its first output's name as it is now -> as it was. The tensor of the
        old name is the same, rounded and cast back.
    """
    renamed: dict[str, str] = {}
    for graph in list(surgery.graphs()):
        renamed |= _Lowering(graph, surgery, shop, narrow, decide).run()
    return renamed


def main_tensors(
    node: gs.Node, opset: int
) -> tuple[list[int], list[int], onnx.defs.OpSchema] | None:
    """Which inputs and outputs share the type parameter of a node's first output.

    Returns:
        The inputs' indices, the outputs', and the schema; None for operators that ONNX does not
        define, or whose first output has a type of its own.
    """
    try:
        schema = onnx.defs.get_schema(node.op, opset, "")
    except onnx.defs.SchemaError:
        return None
    if node.domain not in (None, "", "ai.onnx") or not schema.outputs:
        return None
    parameter = schema.outputs[0].type_str
    if parameter not in {c.type_param_str for c in schema.type_constraints}:
        return None

    def sharing(
        tensors: Sequence[gs.Tensor], formal: Sequence[onnx.defs.OpSchema.FormalParameter]
    ) -> list[int]:
        return [
            i
            for i, tensor in enumerate(tensors)
            if tensor.name and formal[min(i, len(formal) - 1)].type_str == parameter
        ]

    inputs = sharing(node.inputs, schema.inputs) if schema.inputs else []
    return inputs, sharing(node.outputs, schema.outputs), schema


@dataclass
class _Lowering:
    """One walk over a graph in topological order.

    Attributes:
        narrowed: Name of a tensor -> its narrow form.
        rounded: Name of a tensor -> a tensor of the wide type that holds its rounded values.
    """

    graph: gs.Graph
    surgery: Surgery
    shop: Workshop
    narrow: int
    decide: Decide
    narrowed: dict[str, gs.Tensor] = field(default_factory=dict)
    rounded: dict[str, gs.Tensor] = field(default_factory=dict)
    nodes: list[gs.Node] = field(default_factory=list)

    def run(self) -> dict[str, str]:
        renamed: dict[str, str] = {}
        for node, form in [(node, self.decide(node)) for node in self.graph.nodes]:
            before = node.outputs[0].name
            if form is None:
                self.nodes.append(node)
                continue
            if form == NATIVE:
                self._native(node)
            else:
                self._rounded(node)
            renamed[node.outputs[0].name] = before
        self._drop_unread()
        return renamed

    def _native(self, node: gs.Node) -> None:
        inputs, outputs = self._shared(node)
        for i in inputs:
            node.inputs[i] = self._narrow(node.inputs[i])
        self.nodes.append(node)
        for i in outputs:
            y = node.outputs[i]
            self.narrowed[y.name] = node.outputs[i] = self._variable(y, self._suffix)
            self.nodes.append(self._cast(self.narrowed[y.name], WIDE, y))
            self.rounded[y.name] = y

    def _rounded(self, node: gs.Node) -> None:
        inputs, outputs = self._shared(node)
        for i in inputs:
            node.inputs[i] = self._round(node.inputs[i])
        self.nodes.append(node)
        for i in outputs:
            y = node.outputs[i]
            self.rounded[y.name] = y
            if keeps_values(node):
                continue
            node.outputs[i] = self._variable(y, "unrounded")
            self.narrowed[y.name] = self._variable(y, self._suffix)
            self.nodes.append(self._cast(node.outputs[i], self.narrow, self.narrowed[y.name]))
            self.nodes.append(self._cast(self.narrowed[y.name], WIDE, y))

    def _shared(self, node: gs.Node) -> tuple[list[int], list[int]]:
        found = main_tensors(node, self.surgery.opset)
        assert found is not None, node.op
        return found[0], found[1]

    def _narrow(self, x: gs.Tensor) -> gs.Tensor:
        """The tensor in the narrow type: a constant of its own, or a Cast, made once a graph."""
        if x.name not in self.narrowed:
            if is_constant(x):
                self.narrowed[x.name] = self._narrow_constant(x)
            else:
                y = self._variable(x, self._suffix)
                self.nodes.append(self._cast(x, self.narrow, y))
                self.narrowed[x.name] = y
        return self.narrowed[x.name]

    def _round(self, x: gs.Tensor) -> gs.Tensor:
        """The tensor's values, rounded to the narrow type, in the wide one."""
        if x.name not in self.rounded:
            y = self._variable(x, f"{self._suffix}_rounded")
            self.nodes.append(self._cast(self._narrow(x), WIDE, y))
            self.rounded[x.name] = y
        return self.rounded[x.name]

    def _narrow_constant(self, x: gs.Tensor) -> gs.Constant:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.narrow)
        shape = constant_shape(x)
        if shape is None:  # A scalar attribute of a Constant node.
            values = constant_values(x, self.shop.weights)
            assert values is not None
            return self.shop.array(values.astype(dtype), f"{x.name}.{self._suffix}")

        def narrow(values: Array) -> Array:
            return values.astype(dtype)  # To nearest, ties to even.

        return self.shop.derived(x, self._suffix, shape, narrow, self.narrow)

    @property
    def _suffix(self) -> str:
        return SUFFIX[self.narrow]

    def _variable(self, like: gs.Tensor, part: str) -> gs.Variable:
        return gs.Variable(self.surgery.unique_name(f"{like.name}/{part}"), shape=like.shape)

    def _cast(self, x: gs.Tensor, to: int, y: gs.Tensor) -> gs.Node:
        name = self.surgery.unique_name(f"{y.name}/cast")
        return gs.Node("Cast", name, {"to": to}, inputs=[x], outputs=[y])

    def _drop_unread(self) -> None:
        """Leave out Casts that nothing reads, and constants that have a narrow form only."""
        outputs = {t.name for graph in self.surgery.graphs() for t in graph.outputs}
        kept = []
        for node in reversed(self.nodes):
            read = any(t.outputs or t.name in outputs for t in node.outputs)
            replaced = node.op == "Constant" and node.outputs[0].name in self.narrowed
            if read or (hasattr(node, "origin") and not replaced):
                kept.append(node)
            else:
                node.inputs.clear()
                node.outputs.clear()
        self.graph.nodes = list(reversed(kept))


def keeps_values(node: gs.Node) -> bool:
    """Whether an operator only moves values, or takes some of them, so that none is rounded."""
    if node.op == "Pad":
        return node.attrs.get("mode", "constant") != "constant" or len(node.inputs) < 3
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") == "nearest")
    return node.op in MOVES


MOVES = names(
    "Abs Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Max MaxPool "
    "Min Neg Relu Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where"
)
"""Operators whose results are among their operands, or zero, or an operand's negative."""
