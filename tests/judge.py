"""Convert a trial's model and hold the result against the oracle's answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from converter import convert
from tests.conv_case import ConvCase, Trial
from tests.execute import all_nodes, assert_right, conv3d_left

# What moves, cuts or joins tensors by numbers written in the graph. Arithmetic on sizes begins
# with a Shape or a Size, which are not among them; a Gather alone can only reorder channels.
STATIC_OPS = frozenset(
    {"Add", "Concat", "Constant", "Conv", "Gather", "Identity", "MatMul", "Pad", "Reshape", "Slice"}
    | {"Split", "Squeeze", "Sum", "Transpose", "Unsqueeze"}
)

# Winograd trades roundings for products. A row of |A^T| |G| |B^T| of F(8, 3), the largest tile,
# sums to 271: an output may be off by about that many roundings of a number of its own size.
WINOGRAD = {
    TensorProto.FLOAT: 300 * 2.0**-24,
    TensorProto.DOUBLE: 300 * 2.0**-53,
    TensorProto.FLOAT16: 300 * 2.0**-11,
}
# And in rows as well, by F(4, 3), whose rows sum to 30.
WINOGRAD_2D = 30


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
    assert_right(converted, trial, rounding(trial, result))
    return converted, result


def rounding(trial: Trial, result: object) -> float:
    """What the plan's strategies may lose, as a part of an output's largest value."""
    factors = {"winograd": 1, "winograd2d": WINOGRAD_2D}
    factor = max(factors.get(strategy, 0) for strategy in strategies(result))
    if not factor:
        return 0.0
    types = (value.type.tensor_type.elem_type for value in trial.model.graph.output)
    return factor * max(WINOGRAD[elem_type] for elem_type in types)


def strategies(result: object) -> set[str]:
    return {entry.strategy for entry in result.plan.entries}


def assert_no_shape_arithmetic(
    converted: ModelProto, result: object, trial: Trial, case: ConvCase
) -> None:
    """Unless only the run can tell a size that the new graph depends on."""
    if needs_shape_arithmetic(case, strategies(result)):
        return
    before = {node.op_type for node in all_nodes(trial.model)}
    new = {node.op_type for node in all_nodes(converted)} - before
    assert new <= STATIC_OPS, f"computes sizes at run time: {sorted(new - STATIC_OPS)}"


def needs_shape_arithmetic(case: ConvCase, strategies: Collection[str]) -> bool:
    """A batch other than 1; padding that follows T; Winograd with T, or with H and W unknown."""
    same = (case.auto_pad or "").startswith("SAME")
    steps = (case.strides or (1, 1, 1))[0] != 1
    open_plane = {"H", "W"} <= set(case.dynamic)
    return (
        case.batch != 1
        or "N" in case.dynamic
        or (same and steps and "T" in case.dynamic)
        or ("winograd" in strategies and ("T" in case.dynamic or open_plane))
    )
