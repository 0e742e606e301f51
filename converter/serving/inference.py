"""A request for inference, whichever way it came: checked, and its results by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from converter.serving.datatypes import NUMPY
from converter.serving.errors import RequestError, Status, invalid
from converter.serving.model import OPEN, ServedModel, Shape, TensorMetadata, tensor_bytes
from converter.session import Array

MAX_ELEMENTS = 2**40
"""Of a tensor: beyond, a shape is a mistake, and its size would not fit in 64 bits for long."""


@dataclass(frozen=True)
class InferenceRequest:
    """Inputs by name, checked against the model; `outputs` are the names that are wanted.

    `id` is the client's, for the answer; `log_id` is for the log, where it is not the same.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    id: str = ""
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    log_id: str = ""


def check_names(model: ServedModel, given: Sequence[str]) -> None:
    """Raise `RequestError` unless exactly the model's inputs were given."""
    wanted = [tensor.name for tensor in model.inputs]
    for name in given:
        if name not in wanted:
            raise invalid(f"{model.name} has no input {name!r}; it takes {', '.join(wanted)}")
        if list(given).count(name) > 1:
            raise invalid(f"the input {name!r} was given twice")
    for name in wanted:
        if name not in given:
            raise invalid(f"the input {name!r} of {model.name} is missing")


def check_tensor(model: ServedModel, name: str, datatype: str, shape: Sequence[int]) -> Shape:
    """The shape of the model's input `name`, if its type and shape are what the model takes.

    Raises:
        RequestError: they are not.
    """
    wanted = next(tensor for tensor in model.inputs if tensor.name == name)
    if datatype != wanted.datatype:
        raise invalid(f"the input {name!r} is {datatype}, but must be {wanted.datatype}")
    if len(shape) != len(wanted.shape) or not all(map(_fits, shape, wanted.shape)):
        raise invalid(
            f"the input {name!r} is of shape {list(shape)}, but must be {show(wanted.shape)}"
        )
    if math.prod(shape) > MAX_ELEMENTS:
        raise RequestError(Status.TOO_LARGE, f"the input {name!r} has {math.prod(shape)} elements")
    return tuple(shape)


def check_byte_count(name: str, datatype: str, shape: Shape, count: int) -> None:
    """Raise `RequestError` unless an input's bytes are as many as its shape needs."""
    needed = tensor_bytes(datatype, shape)
    if count != needed:
        raise invalid(f"the input {name!r} has {count} bytes, but its shape needs {needed}")


def from_bytes(name: str, datatype: str, shape: Shape, raw: bytes | memoryview) -> Array:
    """An input as it lies in `raw`, which has as many bytes as its shape needs.

    Raises:
        RequestError: a BOOL is neither 0 nor 1.
    """
    if datatype == "BOOL" and max(raw, default=0) > 1:
        raise invalid(f"the input {name!r} has a byte that is neither 0 nor 1")
    return np.frombuffer(raw, NUMPY[datatype]).reshape(shape)


def check_outputs(model: ServedModel, wanted: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs to return: those that are wanted, or all.

    Raises:
        RequestError: one is not the model's.
    """
    names = tuple(tensor.name for tensor in model.outputs)
    for name in wanted:
        if name not in names:
            raise invalid(f"{model.name} has no output {name!r}; it gives {', '.join(names)}")
    return tuple(dict.fromkeys(wanted)) or names


def check_output_size(
    model: ServedModel, shapes: Mapping[str, Shape], outputs: Sequence[str], limit: int
) -> None:
    """Raise `RequestError` if what was asked for is known to be larger than `limit` bytes."""
    made = model.output_shapes(shapes)
    types = {tensor.name: tensor.datatype for tensor in model.outputs}
    total = sum(tensor_bytes(types[name], made[name]) for name in outputs if name in made)
    check_size(total, limit)


def check_size(total: int, limit: int) -> None:
    """Raise `RequestError` if a response of `total` bytes is over the limit."""
    if total > limit:
        raise RequestError(
            Status.TOO_LARGE, f"the outputs are {total} bytes, more than the limit of {limit}"
        )


def show(shape: Shape) -> str:
    """A shape for people; `?` is a dimension of any size."""
    return "[" + ", ".join("?" if size == OPEN else str(size) for size in shape) + "]"


def metadata_json(tensor: TensorMetadata) -> dict[str, object]:
    """As the protocol's metadata states it."""
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _fits(given: int, wanted: int) -> bool:
    return given >= 1 and wanted in (OPEN, given)
