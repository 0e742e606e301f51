"""Bring a model to the opset, and the IR version, at which its target takes the most of it."""

from __future__ import annotations

import onnx
import onnx.helper

from converter.constants import Workshop
from converter.kernels import GENERIC, Claims, Target, kernels_of
from converter.opset import TARGET_OPSET, OpsetChange, retarget
from converter.passes.edge_pads import spell_out_edge_pads
from converter.placement import place
from converter.surgeon import close_model, default_opset, open_model
from converter.weights import WeightTable

OLDEST_OPSET = 13
"""Below it Squeeze, Unsqueeze and reductions take attributes in place of inputs."""


def suit(proto: onnx.ModelProto, target: Target, opset: int | None) -> OpsetChange:
    """Declare a weight-free model, in place, at the opset that suits its target best.

    Args:
        proto: Left as it was where the change has blockers.
        target: For `generic` nothing is asked, and an opset above `TARGET_OPSET` is lowered to it.
        opset: What the user insists on; None leaves the choice to the target.
    """
    if target == GENERIC:
        return retarget(proto, opset)
    change = retarget(proto, best_opset(proto, target) if opset is None else opset)
    needed = onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    proto.ir_version = max(needed, min(proto.ir_version, kernels_of(target).newest_ir))
    return change


def replace_lacking(proto: onnx.ModelProto, weights: WeightTable, target: Target) -> str:
    """Put other operators, in place, where the target lacks one that they can spell out.

    Returns:
        What was replaced and why, in words, or empty.
    """
    if target == GENERIC:
        return ""
    kernels = kernels_of(target)
    if not isinstance(kernels, Claims):
        return ""  # Where a registry has a kernel, it has it for every attribute.
    if "edge" not in kernels.refused_attributes.get("Pad", {}).get("mode", ()):
        return ""
    surgery = open_model(proto)
    count = spell_out_edge_pads(surgery, Workshop(surgery, weights))
    close_model(surgery)
    if not count:
        return ""
    nodes = "1 Pad of mode edge is" if count == 1 else f"{count} Pads of mode edge are"
    return f"{nodes} spelled out by Slice and Concat, as {kernels.provider} does not take them"


def best_opset(proto: onnx.ModelProto, target: Target) -> int:
    """The opset, of those to which the model can be brought, at which least falls to the CPU.

    Of several as good, the first of: the usual one (the model's own up to `TARGET_OPSET`), then
    from `TARGET_OPSET` downwards, then upwards.
    """
    before = default_opset(proto)
    newest = min(kernels_of(target).newest_opset, onnx.defs.onnx_opset_version())
    order = [min(before, TARGET_OPSET)]
    order += range(TARGET_OPSET, OLDEST_OPSET - 1, -1)
    order += range(TARGET_OPSET + 1, newest + 1)
    best, least = before, None
    for opset in dict.fromkeys(order):
        candidate = onnx.ModelProto()
        candidate.CopyFrom(proto)
        if retarget(candidate, opset).blockers:
            continue
        fallbacks = len(place(candidate, target).fallbacks)
        if fallbacks == 0:
            return opset
        if least is None or fallbacks < least:
            best, least = opset, fallbacks
    return best
