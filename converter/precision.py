"""Which nodes a decoder computes in fp16 or bf16, in a form that its target can run.

bf16 is what PyTorch does with a decoder cast to bf16, at its convolutions: weights and bias rounded
to bf16, the input too, sums in fp32, the result rounded and given back in the type it had. Few
providers have a bf16 Conv, and none of them below opset 22; elsewhere the same values are
multiplied by an fp32 Conv (`converter.lowering`). The file is half the size in either form.

Source of the semantics: SGLang's pull request 22971, and PyTorch's `Module.to(torch.bfloat16)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from converter.constants import Workshop, constant_values, is_constant
from converter.errors import UserError
from converter.kernels import GENERIC, Target, kernels_of, names
from converter.lowering import NATIVE, ROUNDED, Form, keeps_values, lower, main_tensors
from converter.native import BF16_CONV_OPSET, takes, why_not_native
from converter.surgeon import Surgery
from converter.weights import WeightTable

Precision = Literal["fp32", "fp16", "bf16"]
Scope = Literal["conv", "all"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SCOPES: tuple[Scope, ...] = get_args(Scope)
FP32: Precision = "fp32"
CONV: Scope = "conv"

NARROW = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
ELEMENT = {"fp16": "float16", "bf16": "bfloat16"}
NARROW_DTYPE: dict[Precision, object] = {
    "fp16": np.dtype(np.float16),
    "bf16": onnx.TensorProto.BFLOAT16,
}
"""What graph-surgeon calls a tensor's type."""

CONVOLUTIONS = ("Conv", "ConvTranspose")

WIDE_OPS = names(
    "BatchNormalization Div Exp GroupNormalization InstanceNormalization LayerNormalization Log "
    "LogSoftmax LpNormalization MeanVarianceNormalization Pow RMSNormalization Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Softmax "
    "Sqrt"
)
"""Norms, softmax, and what they are spelled out by: sums and squares overflow fp16 at 65504."""

BETWEEN = names("Add Clip Expand Identity Max Min Mul Reshape Squeeze Sub Unsqueeze")
"""Operators that may stand between the parts of a norm."""

NEVER = names(
    "Cast CastLike Constant ConstantOfShape DequantizeLinear EyeLike If Loop QuantizeLinear "
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Scan"
)
"""Operators whose result type is not that of their operands."""


@dataclass(frozen=True)
class PrecisionReport:
    """What was lowered, in which form, and why in this one.

    Attributes:
        form: `native` or `rounded` (see `converter.lowering`), or both, where nodes differ.
        kept: Node -> why it stays in fp32 though its kind is lowered.
        renamed: Name of a lowered node's output -> the name that it had.
    """

    precision: Precision
    scope: Scope
    form: str
    why: str
    kept: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def lowered(self) -> int:
        """How many nodes were lowered."""
        return len(self.renamed)

    def sentence(self) -> str:
        """What was done, in one line."""
        if not self.renamed:
            return f"{self.precision}: nothing was lowered: {self.why}"
        nodes = "1 node" if self.lowered == 1 else f"{self.lowered} nodes"
        return f"{self.precision}: {nodes}, {self.form} form: {self.why}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "precision": self.precision,
            "scope": self.scope,
            "form": self.form,
            "why": self.why,
            "lowered": self.lowered,
            "kept": dict(self.kept),
        }


def wanted_opset(precision: Precision, target: Target) -> int | None:
    """The opset that a target needs to compute in a precision, or None if any will do."""
    if precision != "bf16" or target == GENERIC:
        return None
    able = all(takes(target, op, BF16_CONV_OPSET, "bfloat16") for op in ("Conv", "Pad"))
    return BF16_CONV_OPSET if able else None


def check_convolutions(surgery: Surgery, precision: Precision, path: Path) -> None:
    """Raise `UserError` for a graph whose convolutions all have another type than fp32 or that
    of `precision`: nothing here is lowered from any type but fp32.
    """
    types = {
        _type_name(node.outputs[0].dtype)
        for graph in surgery.graphs()
        for node in graph.nodes
        if node.op in CONVOLUTIONS
    }
    if types and not types & {"float32", ELEMENT[precision], ""}:
        raise UserError(
            f"--precision {precision} starts from fp32, and the convolutions of {path} are in "
            f"{' and '.join(sorted(types))}; leave --precision out."
        )


def lower_precision(
    surgery: Surgery,
    weights: WeightTable,
    precision: Precision,
    scope: Scope,
    target: Target,
    leave: Collection[str] = (),
) -> PrecisionReport:
    """Lower an open model in place.

    Args:
        surgery: As `converter.surgeon.open_model` made it, with types; close it afterwards.
        weights: Its bulky tensors; they are read once, to see that fp16 can hold them.
        precision: Not fp32, which needs no call.
        scope: `conv` for convolutions alone; `all` for all but norms, softmax and what would
            not fit.
        target: Decides the form; `generic` gets one that every provider runs.
        leave: Names of the first outputs of nodes that hold narrow values already.
    """
    decision = _Decision(surgery, weights, precision, scope, target, leave)
    renamed = lower(surgery, Workshop(surgery, weights), NARROW[precision], decision.form)
    forms = sorted(set(decision.forms.values()))
    return PrecisionReport(
        precision,
        scope,
        " and ".join(forms) or "none",
        decision.why(),
        decision.kept,
        renamed,
    )


class _Decision:
    """Decides node by node; all is decided before anything changes."""

    def __init__(
        self,
        surgery: Surgery,
        weights: WeightTable,
        precision: Precision,
        scope: Scope,
        target: Target,
        leave: Collection[str],
    ) -> None:
        self._leave = leave
        self._weights = weights
        self._precision = precision
        self._target = target
        self._opset = surgery.opset
        self.forms: dict[int, Form] = {}
        self.kept: dict[str, str] = {}
        self._lacking = ""
        nodes = [node for graph in surgery.graphs() for node in graph.nodes]
        wide = set() if scope == CONV else _wide_nodes(nodes)
        for node in nodes:
            asked = node.op in CONVOLUTIONS if scope == CONV else id(node) not in wide
            if asked and self._can(node):
                self.forms[id(node)] = self._form_of(node)
        self._take_movers(nodes)
        self._nothing = _why_nothing(nodes, leave)
        self._alive = nodes  # Identities must not be used again while they are keys.

    def form(self, node: gs.Node) -> Form | None:
        """In which form a node is lowered."""
        return self.forms.get(id(node))

    def why(self) -> str:
        """Why these forms were chosen."""
        if not self.forms:
            return self._nothing
        if self._lacking:
            return self._lacking
        if self._precision == "bf16" and self._target == GENERIC:
            return "an fp32 Conv of bf16 values runs on every provider"
        if self._target == GENERIC:
            return "ONNX allows it at any opset"
        return f"{kernels_of(self._target).provider} takes it at opset {self._opset}"

    def _can(self, node: gs.Node) -> bool:
        if node.outputs[0].name in self._leave:
            return False
        if node.op in NEVER or any(isinstance(v, gs.Graph) for v in node.attrs.values()):
            return False
        found = main_tensors(node, self._opset)
        if found is None or not found[0]:
            return False
        inputs, outputs, _ = found
        tensors = [*(node.inputs[i] for i in inputs), *(node.outputs[i] for i in outputs)]
        if any(t.dtype != np.dtype(np.float32) for t in tensors):
            return False
        if self._precision == "fp16":
            reason = self._does_not_fit(node, inputs)
            if reason:
                self.kept[node.name or node.outputs[0].name] = reason
                return False
        return True

    def _does_not_fit(self, node: gs.Node, inputs: list[int]) -> str:
        """Why fp16 cannot hold a node's constants, or empty."""
        limit = float(np.finfo(np.float16).max)
        for i in inputs:
            values = constant_values(node.inputs[i], self._weights)
            if values is None or not values.size:
                continue
            largest = float(np.abs(values[np.isfinite(values)]).max(initial=0))
            if largest > limit:
                return f"its constant {node.inputs[i].name} holds {largest:.3g}, over {limit:g}"
            if values.size == 1 and 0 < largest < float(np.finfo(np.float16).tiny):
                return f"its constant {node.inputs[i].name} is {largest:.3g}, too small for fp16"
        return ""

    def _form_of(self, node: gs.Node) -> Form:
        """Native where the schema allows the type and the target has the kernel."""
        if self._precision == "bf16" and self._target == GENERIC:
            return ROUNDED
        reason = self._lacks(node)
        self._lacking = self._lacking or reason
        return ROUNDED if reason else NATIVE

    def _take_movers(self, nodes: list[gs.Node]) -> None:
        """Round in front of a Pad or a Resize that feeds only lowered Convs.

        The Convs may then absorb the Pad, or become phase convolutions with the Resize.
        """
        for node in nodes:
            moves = node.op == "Pad" or (node.op == "Resize" and keeps_values(node))
            if not moves or id(node) in self.forms or not self._can(node):
                continue
            readers = node.outputs[0].outputs
            forms = {self.forms.get(id(reader)) for reader in readers}
            if all(r.op == "Conv" for r in readers) and len(forms) == 1 and None not in forms:
                form = forms.pop()
                assert form is not None
                if form == ROUNDED or not self._lacks(node):
                    self.forms[id(node)] = form

    def _lacks(self, node: gs.Node) -> str:
        element = ELEMENT[self._precision]
        return why_not_native(node, self._opset, element, self._target)


def _why_nothing(nodes: list[gs.Node], leave: Collection[str]) -> str:
    """What to say of a graph of which nothing was lowered."""
    found = [node.outputs[0] for node in nodes if node.op in CONVOLUTIONS]
    if not found:
        return "there is no convolution"
    if all(y.name in leave or y.dtype in NARROW_DTYPE.values() for y in found):
        return "the convolutions are in half precision already"
    return "no convolution can be"


def _type_name(dtype: Any) -> str:
    """ONNX's name of a tensor's type, with fp32 as float32; empty if it is not known."""
    if dtype is None:
        return ""
    return "bfloat16" if dtype == onnx.TensorProto.BFLOAT16 else str(np.dtype(dtype))


def _wide_nodes(nodes: list[gs.Node]) -> set[int]:
    """Nodes that `all` leaves in fp32: norms, softmax, and what lies between their parts.

    Between Pow, ReduceMean, Add, Sqrt and Div, say, the Add reads only fp32 and leads only to it;
    and a product of a tensor with itself is a square on its way into a sum.
    """
    wide = {id(n) for n in nodes if (n.op in WIDE_OPS and not _is_scaling(n)) or _is_square(n)}
    behind: dict[int, gs.Node] = {}
    for node in nodes:
        if node.op not in BETWEEN:
            continue
        makers = [t.inputs[0] for t in node.inputs if t.inputs and t.dtype == np.float32]
        makers = [m for m in makers if m.op != "Constant"]
        if makers and all(id(m) in wide or id(m) in behind for m in makers):
            behind[id(node)] = node
    for node in reversed(list(behind.values())):
        if any(id(reader) in wide for reader in node.outputs[0].outputs):
            wide.add(id(node))
    return wide


def _is_scaling(node: gs.Node) -> bool:
    return node.op == "Div" and is_constant(node.inputs[1])


def _is_square(node: gs.Node) -> bool:
    return node.op == "Mul" and node.inputs[0] is node.inputs[1]
