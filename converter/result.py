"""What a conversion did: one typed result for the terminal, for JSON, and for Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from converter.opset import OpsetChange
from converter.placement import Placement
from converter.plan import Plan
from converter.precision import PrecisionReport
from converter.surgeon import default_opset, walk
from converter.weights import tensors

if TYPE_CHECKING:
    from converter.compare.validate import Validation

RESULT_VERSION = 1
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}


@dataclass(frozen=True)
class GraphSummary:
    """A graph in numbers: nodes by operator, floating-point parameters, bytes on disk.

    `data_file` is the name of the file beside it that holds the weights, where it was written so.
    """

    nodes: Mapping[str, int]
    conv3d: int
    parameters: int
    file_bytes: int
    opset: int
    ir_version: int
    data_file: str = ""

    @property
    def node_count(self) -> int:
        """All nodes, those of nested graphs included."""
        return sum(self.nodes.values())

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "nodes": dict(self.nodes),
            "conv3d": self.conv3d,
            "parameters": self.parameters,
            "file_bytes": self.file_bytes,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "data_file": self.data_file,
        }


@dataclass(frozen=True)
class ConvertResult:
    """The outcome of `converter.convert`.

    Attributes:
        written: Whether `output` was written. False for a dry run and a failed validation.
        plan: The decision on every Conv3D.
        after: None for a dry run.
        seconds: Time spent, by phase.
        validation: None where none was made.
        precision: What was lowered; None where the precision was left as it was.
        placement: What becomes of the output's nodes on the target; None for a dry run, and where
            no target was named.
        error: Relative error of the whole graph, as `converter.accuracy` estimates it.
        notes: What the user should know, a sentence each.
    """

    input: Path
    output: Path | None
    written: bool
    plan: Plan
    opset: OpsetChange
    before: GraphSummary
    after: GraphSummary | None
    seconds: Mapping[str, float]
    validation: Validation | None
    notes: tuple[str, ...]
    precision: PrecisionReport | None = None
    placement: Placement | None = None
    error: float = 0.0

    @property
    def conv3d_left(self) -> int:
        """Convs on rank-5 tensors in the output (before conversion, for a dry run)."""
        return (self.after or self.before).conv3d

    @property
    def equal(self) -> bool:
        """Whether no validation says otherwise."""
        return self.validation is None or self.validation.passed

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; `version` changes when a key changes its meaning."""
        return {
            "version": RESULT_VERSION,
            "input": str(self.input),
            "output": None if self.output is None else str(self.output),
            "written": self.written,
            "conv3d_left": self.conv3d_left,
            "plan": self.plan.to_json(),
            "opset": {
                "before": self.opset.before,
                "after": self.opset.after,
                "blockers": list(self.opset.blockers),
            },
            "before": self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "seconds": dict(self.seconds),
            "validation": None if self.validation is None else self.validation.to_json(),
            "precision": None if self.precision is None else self.precision.to_json(),
            "placement": None if self.placement is None else self.placement.to_json(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        done = f"{self.before.conv3d} Conv3D, {self.conv3d_left} left"
        where = f"{self.input} -> {self.output}" if self.written else f"{self.input}, not written"
        verdict = "" if self.validation is None else f"; {self.validation.sentence()}"
        return f"{where}: {done}; {self.opset.sentence()}{verdict}"


def summarize(
    proto: onnx.ModelProto, conv3d: int, file_bytes: int, data_file: str = ""
) -> GraphSummary:
    """Count a weight-free model; the other fields are known to the caller."""
    nodes: Counter[str] = Counter(node.op_type for node in walk(proto.graph.node))
    for function in proto.functions:
        nodes.update(node.op_type for node in walk(function.node))
    return GraphSummary(
        nodes=dict(nodes.most_common()),
        conv3d=conv3d,
        parameters=sum(math.prod(t.dims) for t in tensors(proto) if t.data_type in FLOATS),
        file_bytes=file_bytes,
        opset=default_opset(proto),
        ir_version=proto.ir_version,
        data_file=data_file,
    )
