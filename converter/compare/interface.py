"""The inputs and outputs that a graph states, read from the file without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from converter.errors import CannotCompareError, UserError

Dim = int | str | None


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor; a dimension is a size, a symbol, or unknown; `dims` None: rank unknown."""

    name: str
    elem_type: int
    dims: tuple[Dim, ...] | None

    def __str__(self) -> str:
        dims = "of unknown rank" if self.dims is None else show_shape(self.dims)
        return f"{self.name} {TensorProto.DataType.Name(self.elem_type).lower()} {dims}"


@dataclass(frozen=True)
class Interface:
    """What a caller must feed and gets back. Inputs that have an initializer are left out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def load_skeleton(path: str | Path) -> onnx.ModelProto:
    """The model at `path` without its external data; raises `UserError` if it is not readable."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise UserError(f"{path} is not an ONNX model, or is cut short.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_interface(model: onnx.ModelProto, path: str | Path) -> Interface:
    """The graph's interface; raises `UserError` for a sequence, map or optional, or strings."""
    optional = {tensor.name for tensor in model.graph.initializer}
    optional |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return Interface(
        tuple(_spec(i, path) for i in model.graph.input if i.name not in optional),
        tuple(_spec(output, path) for output in model.graph.output),
    )


def check_same(reference: Interface, candidate: Interface) -> None:
    """Raise `UserError` naming the first input or output in which the candidate differs.

    Symbols may have other names. A candidate's output may be stated more or less precisely than
    the reference's, since the arrays themselves are compared; its inputs may not.
    """
    for kind, left, right in (
        ("inputs", reference.inputs, candidate.inputs),
        ("outputs", reference.outputs, candidate.outputs),
    ):
        names, other_names = [t.name for t in left], [t.name for t in right]
        if names != other_names:
            raise UserError(
                f"the two graphs have different {kind}: {', '.join(names) or 'none'} in the "
                f"reference, {', '.join(other_names) or 'none'} in the candidate."
            )
        for before, after in zip(left, right, strict=True):
            if not _same(before, after, strict=kind == "inputs"):
                raise UserError(
                    f"the two graphs have different {kind}: {before} in the reference, "
                    f"{after} in the candidate."
                )


def show_shape(dims: Sequence[Dim]) -> str:
    """A shape as `--shape` takes it, such as 1x16xTx8x8."""
    return "x".join("?" if dim is None else str(dim) for dim in dims) or "scalar"


def _same(before: TensorSpec, after: TensorSpec, strict: bool) -> bool:
    if before.elem_type != after.elem_type:
        return False
    if before.dims is None or after.dims is None:
        return not strict or before.dims == after.dims
    if len(before.dims) != len(after.dims):
        return False
    for left, right in zip(before.dims, after.dims, strict=True):
        both_sizes = isinstance(left, int) and isinstance(right, int)
        if both_sizes and left != right:
            return False
        if strict and isinstance(left, int) != isinstance(right, int):
            return False
    return True


def _spec(value: onnx.ValueInfoProto, path: str | Path) -> TensorSpec:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or tensor.elem_type == TensorProto.STRING:
        raise CannotCompareError(
            f"{path}: {value.name} is not a tensor of numbers, so the graph cannot be compared."
        )
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, tensor.elem_type, None)
    return TensorSpec(value.name, tensor.elem_type, tuple(_dim(d) for d in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
