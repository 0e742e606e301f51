"""Carry out a plan: replace each Conv3D by what its strategy makes, and lay out what is between."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from converter.constants import Workshop
from converter.conv3d import ConstantWeight, Conv3D, Unread
from converter.layout import make_frame_major
from converter.layout.view import View
from converter.model_file import Model
from converter.passes.early_outputs import make_outputs_early
from converter.passes.phase_upsample import phase_convolutions
from converter.passes.redundant_expand import drop_redundant_expands
from converter.passes.sum_of_squares import spell_out_l2_norms
from converter.plan import Plan
from converter.rewrites import BY_NAME, KEEP
from converter.rewrites.emit import Emitter
from converter.surgeon import Surgery, close_model, drop_unused, open_model, replace_node


def carry_out(plan: Plan, found: Sequence[Conv3D | Unread], surgery: Surgery, model: Model) -> None:
    """Replace the Conv3Ds of an open model, and close it.

    Args:
        plan: What is to be done.
        found: The Conv3Ds that it was made for.
        surgery: The open model.
        model: The same, closed.
    """
    workshop = Workshop(surgery, model.weights)
    for item, entry in zip(found, plan.entries, strict=True):
        if entry.strategy == KEEP or isinstance(item, Unread):
            continue
        emit = Emitter(item, workshop, entry.tiles)
        BY_NAME[entry.strategy].rewrite(item, emit)
        replace_node(item.graph, item.node, emit.nodes)
        _drop_what_only_it_used(item, surgery)
    close_model(surgery)


def lay_out(model: Model) -> dict[str, View]:
    """Sink the transposes that the rewrites left around their subgraphs.

    Returns:
        Name of a tensor that is no longer made -> of which tensor it is what view.
    """
    surgery = open_model(model.proto)
    drop_redundant_expands(surgery)
    report = make_frame_major(surgery, model.weights)
    phase_convolutions(surgery, Workshop(surgery, model.weights))
    spell_out_l2_norms(surgery)
    make_outputs_early(surgery)
    close_model(surgery)
    return report.moved


def _drop_what_only_it_used(conv: Conv3D, surgery: Surgery) -> None:
    """Remove the absorbed Pad and the nodes that made the old weights, if nothing reads them."""
    candidates: list[gs.Node] = []
    if isinstance(conv.weight, ConstantWeight):
        candidates = [*reversed(conv.weight.chain), *conv.weight.root.inputs]
    if conv.absorbed_pad is not None:
        candidates.append(conv.absorbed_pad)
    outputs = {t.name for graph in surgery.graphs() for t in graph.outputs}
    for node in candidates:
        for graph in surgery.graphs():
            if any(node is other for other in graph.nodes):
                drop_unused(graph, node, outputs)
                break
