"""What a converted model says of where it comes from, in its metadata_props."""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx

from converter.layout.view import View
from converter.plan import Plan
from converter.precision import PrecisionReport
from converter.surgeon import walk
from converter.version import VERSION

NCTHW = "NCTHW"
METADATA_PREFIX = "convert_vae."


def write(
    proto: onnx.ModelProto,
    digest: str,
    options: Mapping[str, object],
    plan: Plan,
    precision: PrecisionReport | None,
    renamed: Mapping[str, str],
    moved: Mapping[str, View],
) -> None:
    """Provenance (design contract 4): tool, options, plan, input digest, where each output is.

    Args:
        proto: The converted model; entries of an earlier conversion are replaced.
        digest: Of the input.
        options: Those that decide what is written, by name.
        plan: What was decided for each Conv3D.
        precision: What was lowered, if anything was to be.
        renamed: Name of a lowered or widened node's output -> the name that it had.
        moved: Tensors that the layout pass replaced by views of others.
    """
    entries = {
        "version": VERSION,
        "options": json.dumps(dict(options)),
        "plan": json.dumps(plan.to_json()),
        "input_sha256": digest,
        "outputs": json.dumps(_outputs(proto, plan, renamed, moved)),
    }
    if precision is not None:
        entries["precision"] = json.dumps(precision.to_json())
    kept = [p for p in proto.metadata_props if not p.key.startswith(METADATA_PREFIX)]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for key, value in entries.items():
        proto.metadata_props.add(key=METADATA_PREFIX + key, value=value)


def _outputs(
    proto: onnx.ModelProto, plan: Plan, renamed: Mapping[str, str], moved: Mapping[str, View]
) -> dict[str, dict[str, str]]:
    """Where each original Conv3D output is now; one whose type was changed, before it was cast back
    if no node reads it otherwise.
    """
    made = {name for node in walk(proto.graph.node) for name in node.output}
    found = {}
    for entry in plan.entries:
        name = renamed.get(entry.output, entry.output)
        there = name if name in made or name in moved else entry.output
        found[name] = _whereabouts(there, moved.get(there))
    return found


def _whereabouts(output: str, view: View | None) -> dict[str, str]:
    """Which tensor holds a Conv3D's output now, and what its axes are."""
    if view is None:
        return {"tensor": output, "layout": NCTHW}
    layout = "".join(NCTHW[view.axis_of(a)] for a in range(view.source_rank))
    return {"tensor": view.source.name, "layout": layout}
