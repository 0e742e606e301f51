"""Convert a trial's model and hold the result against the oracle's answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from converter import convert
from tests.conv_case import ConvCase, Trial
from tests.execute import all_nodes, assert_right, conv3d_left

# What moves, cuts or joins tensors by numbers written in the graph. Arithmetic on sizes begins
# with a Shape or a Size, which are not among them; a Gather alone can only reorder channels.
STATIC_OPS = frozenset(
    {"Add", "Concat", "Constant", "Conv", "Gather", "Identity", "Pad", "Reshape", "Slice"}
    | {"Split", "Squeeze", "Sum", "Transpose", "Unsqueeze"}
)


def convert_model(
    model: ModelProto,
    folder: Path,
    strategy: str = "auto",
    pins: Mapping[str, str] | None = None,
) -> tuple[ModelProto, object]:
    """The converted model, checked to be valid and to have the interface it had; and the result."""
    source, target = folder / "in.onnx", folder / "out.onnx"
    onnx.save(model, source)
    result = convert(
        str(source),
        str(target),
        strategy=strategy,
        pins=dict(pins or {}),
        validate=False,
        overwrite=True,
    )
    converted = onnx.load(target)
    onnx.checker.check_model(converted, full_check=True)
    assert _interface(converted) == _interface(model)
    return converted, result


def _interface(model: ModelProto) -> tuple[list, list]:
    fixed = set()
    if model.ir_version < 4:  # There an initializer listed as an input cannot be fed.
        fixed = {tensor.name for tensor in model.graph.initializer}
    inputs = [(v.name, v.type) for v in model.graph.input if v.name not in fixed]
    return inputs, [(value.name, value.type) for value in model.graph.output]


def assert_converted(
    trial: Trial,
    folder: Path,
    strategy: str = "auto",
    pins: Mapping[str, str] | None = None,
) -> tuple[ModelProto, object]:
    """No Conv3D is left, none was refused, and the numbers are right."""
    converted, result = convert_model(trial.model, folder, strategy, pins)
    assert conv3d_left(converted) == []
    assert result.conv3d_left == 0
    assert not [entry.reason for entry in result.plan.entries if entry.refused]
    assert_right(converted, trial)
    return converted, result


def assert_no_shape_arithmetic(converted: ModelProto, trial: Trial) -> None:
    before = {node.op_type for node in all_nodes(trial.model)}
    new = {node.op_type for node in all_nodes(converted)} - before
    assert new <= STATIC_OPS, f"computes sizes at run time: {sorted(new - STATIC_OPS)}"


def needs_shape_arithmetic(case: ConvCase) -> bool:
    """Where only a size known at run time tells the padding in time, or the batch is not 1."""
    same = (case.auto_pad or "").startswith("SAME")
    steps = (case.strides or (1, 1, 1))[0] != 1
    return case.batch != 1 or "N" in case.dynamic or (same and steps and "T" in case.dynamic)
