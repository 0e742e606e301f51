"""Whether a target computes an operator in a narrow type: by its kernels and ONNX's schemas."""

from __future__ import annotations

import onnx
import onnx.defs
import onnx_graphsurgeon as gs

from converter.kernels import GENERIC, Target, Use, kernels_of
from converter.lowering import main_tensors

BF16_CONV_OPSET = 22


def why_not_native(node: gs.Node, opset: int, element: str, target: Target) -> str:
    """Why a node cannot be computed in a type where the graph is meant to run, or empty.

    Empty too for an operator that ONNX does not define at that opset.
    """
    found = main_tensors(node, opset)
    if found is None:
        return ""
    opsets = (opset, BF16_CONV_OPSET)
    if target != GENERIC and not any(takes(target, node.op, o, element) for o in opsets):
        return f"{kernels_of(target).provider} has no {element} {node.op}"
    if node.op == "Sigmoid" and element == "bfloat16" and _fuses_quick_gelu(target):
        return "onnxruntime would fuse Sigmoid and Mul into a QuickGelu that has no bfloat16 kernel"
    schema = found[2]
    parameter = schema.outputs[0].type_str
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}[parameter]
    if f"tensor({element})" not in allowed:
        return f"ONNX has no {element} {node.op} at opset {opset}"
    if target != GENERIC and not takes(target, node.op, opset, element):
        return f"{kernels_of(target).provider} has no {element} {node.op} at opset {opset}"
    return ""


def _fuses_quick_gelu(target: Target) -> bool:
    """Whether a bf16 Sigmoid and Mul would end in a kernel that the target lacks."""
    if target == GENERIC:
        return True
    types = {"T": frozenset({"bfloat16"})}
    return kernels_of(target).missing(Use("QuickGelu", "com.microsoft", 1, types)) is not None


def takes(target: Target, op: str, opset: int, element: str) -> bool:
    """Whether it has a kernel for the operator of an opset where all that can be is of a type."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    parameter = schema.outputs[0].type_str
    names = {parameter}
    names |= {p.name for p in (*schema.inputs, *schema.outputs) if p.type_str == parameter}
    types = dict.fromkeys(names, frozenset({element}))
    return kernels_of(target).missing(Use(op, "", schema.since_version, types)) is None
