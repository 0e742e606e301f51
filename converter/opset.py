"""Bring a model to another opset where every operator allows it, and say which one does not.

Most versions of an operator only widen its types, so a node can be declared at the other version
as it is. That is decided per node from ONNX's own schemas: same inputs, no attribute that the
target lacks (unless it has its default value), no changed default, all types allowed. Versions
whose signature stayed while the meaning changed are listed in `MEANING_CHANGED`. Nothing is
rewritten: a node that would need it is a blocker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx
import onnx.defs
import onnx.helper

from converter.errors import UserError
from converter.surgeon import infer_shapes, walk

LOWEST_OPSET = 11
"""The opset at which Slice and Pad took the form that the rewrites emit."""

TARGET_OPSET = 18
"""The newest opset at which the ROCm provider has a kernel for every operator of a decoder."""

TARGET_IR_VERSION = 10
"""The newest IR version that onnxruntime 1.22 (the last ROCm wheel) loads."""

Types = dict[str, set[str]]


@dataclass(frozen=True)
class OpsetChange:
    """What became of the wish to change the opset."""

    before: int
    after: int
    blockers: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The change, or why there was none."""
        if self.blockers:
            more = f" (and {len(self.blockers) - 1} more)" if len(self.blockers) > 1 else ""
            return f"opset {self.before} kept: {self.blockers[0]}{more}"
        if self.before == self.after:
            return f"opset {self.before}"
        return f"opset {self.before} -> {self.after}"


def retarget(proto: onnx.ModelProto, wanted: int | None) -> OpsetChange:
    """Declare the model at another opset, in place, if every node allows it.

    Args:
        proto: A weight-free model.
        wanted: The opset; None keeps what lies from `LOWEST_OPSET` to `TARGET_OPSET`, raises
            what is below to the one and lowers what is above to the other.

    Returns:
        The change; with `blockers` (a sentence each) the model was left as it was.

    Raises:
        UserError: `wanted` is newer than the installed onnx knows.
    """
    newest = onnx.defs.onnx_opset_version()
    if wanted is not None and wanted > newest:
        raise UserError(
            f"opset {wanted} is not known here: onnx {onnx.__version__} ends at {newest}."
        )
    before = _default_import(proto.opset_import).version
    target = max(LOWEST_OPSET, min(before, TARGET_OPSET)) if wanted is None else wanted
    if target == before:
        return OpsetChange(before, before)
    blockers = tuple(dict.fromkeys(_blockers(proto, before, target)))
    if blockers:
        return OpsetChange(before, before, blockers)
    for imports, nodes in _bodies(proto):
        for node in walk(nodes):
            if node.domain in ("", "ai.onnx"):
                _drop_defaulted(node, before, target)
        _default_import(imports).version = target
    if target <= TARGET_OPSET:
        proto.ir_version = min(proto.ir_version, TARGET_IR_VERSION)
    needed = onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    proto.ir_version = max(proto.ir_version, needed)
    return OpsetChange(before, target)


def _blockers(proto: onnx.ModelProto, before: int, target: int) -> Iterator[str]:
    types = tensor_types(infer_shapes(proto))
    for imports, nodes in _bodies(proto):
        if _default_import(imports).version != before:
            yield "a local function imports another opset than the model"
        for node in walk(nodes):
            if node.domain in ("", "ai.onnx"):
                reason = _blocker(node, before, target, types)
                if reason:
                    yield f"{node.op_type} (node {node.name or node.output[0]!r}) {reason}"


def _blocker(node: onnx.NodeProto, before: int, target: int, types: Types) -> str | None:
    """Why a node cannot be declared at `target`, or None."""
    old = onnx.defs.get_schema(node.op_type, before, "")
    try:
        new = onnx.defs.get_schema(node.op_type, target, "")
    except onnx.defs.SchemaError:
        return f"does not exist at opset {target}"
    if old.since_version == new.since_version:
        return None
    if new.deprecated:
        return f"is deprecated at opset {target}"
    low, high = sorted((old.since_version, new.since_version))
    for version, applies, reason in MEANING_CHANGED.get(node.op_type, ()):
        if low < version <= high and applies(_attributes(node)):
            return reason
    return (
        _signature_blocker(node, old, new)
        or _attribute_blocker(node, old, new)
        or _type_blocker(node, new, types)
    )


def _signature_blocker(
    node: onnx.NodeProto, old: onnx.defs.OpSchema, new: onnx.defs.OpSchema
) -> str | None:
    if not new.min_input <= len(node.input) <= new.max_input:
        return f"takes other inputs at opset {new.since_version}"
    if not new.min_output <= len(node.output) <= new.max_output:
        return f"has other outputs at opset {new.since_version}"
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for index, parameter in enumerate(new.inputs):
        given = index < len(node.input) and node.input[index]
        if parameter.option == single and not given:
            return f"needs the input {parameter.name!r} at opset {new.since_version}"
    for old_input, new_input, name in zip(old.inputs, new.inputs, node.input, strict=False):
        if name and old_input.name.lower() != new_input.name.lower():
            return f"takes {new_input.name!r} in place of {old_input.name!r}"
    return None


def _attribute_blocker(
    node: onnx.NodeProto, old: onnx.defs.OpSchema, new: onnx.defs.OpSchema
) -> str | None:
    given = _attributes(node)
    for name, value in given.items():
        if name not in new.attributes and value != _default(old, name):
            return f"has no attribute {name!r} at opset {new.since_version}"
    for name, attribute in new.attributes.items():
        if name in given:
            continue
        if attribute.required:
            return f"needs the attribute {name!r} at opset {new.since_version}"
        if name in old.attributes and _default(old, name) != _default(new, name):
            return f"has another default for {name!r} at opset {new.since_version}"
    return None


def _type_blocker(node: onnx.NodeProto, new: onnx.defs.OpSchema, types: Types) -> str | None:
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in new.type_constraints}
    for names, formal in ((node.input, new.inputs), (node.output, new.outputs)):
        for index, name in enumerate(names):
            parameter = formal[min(index, len(formal) - 1)]
            if not name or parameter.type_str not in allowed:
                continue
            if name not in types:
                return f"handles {name!r}, whose type is not known"
            for found in types[name] - allowed[parameter.type_str]:
                return f"does not take {found} at opset {new.since_version}"
    return None


def _drop_defaulted(node: onnx.NodeProto, before: int, target: int) -> None:
    """Drop attributes that the target does not know; `_blocker` saw that they are at default."""
    new = onnx.defs.get_schema(node.op_type, target, "")
    if onnx.defs.get_schema(node.op_type, before, "").since_version == new.since_version:
        return
    kept = [a for a in node.attribute if a.name in new.attributes]
    del node.attribute[:]
    node.attribute.extend(kept)


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {
        a.name: None if a.ref_attr_name else onnx.helper.get_attribute_value(a)
        for a in node.attribute
    }


def _default(schema: onnx.defs.OpSchema, name: str) -> object:
    default = schema.attributes[name].default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        return None
    return onnx.helper.get_attribute_value(default)


def _default_import(imports: Iterable[onnx.OperatorSetIdProto]) -> onnx.OperatorSetIdProto:
    found = [i for i in imports if i.domain in ("", "ai.onnx")]
    return found[0] if found else onnx.OperatorSetIdProto()


def _bodies(
    proto: onnx.ModelProto,
) -> Iterator[tuple[Iterable[onnx.OperatorSetIdProto], Iterable[onnx.NodeProto]]]:
    yield proto.opset_import, proto.graph.node
    for function in proto.functions:
        if any(i.domain in ("", "ai.onnx") for i in function.opset_import):
            yield function.opset_import, function.node


def tensor_types(proto: onnx.ModelProto) -> Types:
    """Name -> type strings as schemas write them; sibling graphs may reuse a name."""
    types: Types = {}

    def visit(graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.WhichOneof("value"):
                types.setdefault(value.name, set()).add(_type_string(value.type))
        for tensor in graph.initializer:
            types.setdefault(tensor.name, set()).add(_element_string(tensor.data_type))
        for node in graph.node:
            for attribute in node.attribute:
                for nested in (attribute.g, *attribute.graphs):
                    visit(nested)

    visit(proto.graph)
    return types


def _type_string(value: onnx.TypeProto) -> str:
    kind = value.WhichOneof("value")
    if kind == "sequence_type":
        return f"seq({_type_string(value.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({_type_string(value.optional_type.elem_type)})"
    if kind == "tensor_type":
        return _element_string(value.tensor_type.elem_type)
    return str(kind)


def _element_string(data_type: int) -> str:
    name = onnx.TensorProto.DataType.Name(data_type).lower()
    return f"tensor({name})"


def _always(_: dict[str, object]) -> bool:
    return True


def _in(name: str, *values: bytes) -> Callable[[dict[str, object]], bool]:
    return lambda attributes: attributes.get(name) in values


def _truthy(name: str) -> Callable[[dict[str, object]], bool]:
    return lambda attributes: bool(attributes.get(name))


MEANING_CHANGED: dict[str, tuple[tuple[int, Callable[[dict[str, object]], bool], str], ...]] = {
    "AveragePool": (
        (7, _truthy("pads"), "does not count its padding since opset 7"),
        (19, _truthy("ceil_mode"), "rounds up otherwise since opset 19"),
    ),
    "BatchNormalization": (
        (7, _always, "tells inference from training otherwise since opset 7"),
        (14, _always, "has other outputs since opset 14"),
    ),
    "Cast": ((6, _always, "names its type by a number since opset 6"),),
    "DFT": ((20, _always, "takes its axis otherwise since opset 20"),),
    "Dropout": ((7, _always, "tells inference from training otherwise since opset 7"),),
    "GRU": ((7, _always, "has its outputs otherwise since opset 7"),),
    "GridSample": ((20, _always, "names its modes otherwise since opset 20"),),
    "GroupNormalization": ((21, _always, "scales per channel since opset 21"),),
    "Hardmax": ((13, _always, "treats its axis otherwise since opset 13"),),
    "LSTM": ((7, _always, "has its outputs otherwise since opset 7"),),
    "LogSoftmax": ((13, _always, "treats its axis otherwise since opset 13"),),
    "MaxPool": ((22, _truthy("ceil_mode"), "rounds up otherwise since opset 22"),),
    "PRelu": ((7, _always, "broadcasts its slope otherwise since opset 7"),),
    "Pad": ((19, _in("mode", b"wrap"), "has the mode 'wrap' only since opset 19"),),
    "Resize": (
        (11, _always, "has other coordinates since opset 11"),
        (
            19,
            _in("coordinate_transformation_mode", b"half_pixel_symmetric"),
            "has half_pixel_symmetric only since opset 19",
        ),
    ),
    "RNN": ((7, _always, "has its outputs otherwise since opset 7"),),
    "RoiAlign": ((16, _always, "has other coordinates since opset 16"),),
    "Scan": ((9, _always, "takes other inputs since opset 9"),),
    "ScatterElements": ((18, _in("reduction", b"max", b"min"), "reduces so since opset 18"),),
    "ScatterND": ((18, _in("reduction", b"max", b"min"), "reduces so since opset 18"),),
    "Softmax": ((13, _always, "treats its axis otherwise since opset 13"),),
    "Split": ((18, _always, "names its parts otherwise since opset 18"),),
}
"""Operator -> (version, when it matters, reason), where the signature alone does not tell.

Read out of the changelogs of the ONNX operators (docs/Changelog.md of onnx).
"""
