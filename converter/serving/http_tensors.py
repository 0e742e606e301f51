"""Inference requests and responses as HTTP bodies: JSON, and binary tensors behind it.

Open Inference Protocol, HTTP/REST, with the binary tensor data extension: the JSON comes first, its
length is in the header `Inference-Header-Content-Length`, and the bytes of the tensors follow in
the order in which the JSON names them, little-endian and C-contiguous.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.serving.datatypes import NUMPY, ONLY_BINARY
from converter.serving.errors import invalid
from converter.serving.inference import (
    InferenceRequest,
    check_byte_count,
    check_names,
    check_outputs,
    check_tensor,
    from_bytes,
)
from converter.serving.model import VERSION, ServedModel, Shape, TensorMetadata
from converter.session import Array

HEADER_LENGTH = "Inference-Header-Content-Length"

CHUNK = 1 << 20
"""Bytes that are handed to the socket at a time."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A parsed request, and which outputs are wanted as bytes rather than as JSON."""

    request: InferenceRequest
    binary: frozenset[str]


@dataclass(frozen=True)
class Body:
    """A response: the JSON, then tensors whose bytes are sent from where they lie."""

    header: bytes
    tensors: tuple[Array, ...]

    @property
    def length(self) -> int:
        """Bytes in all."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in order, no tensor copied."""
        yield memoryview(self.header)
        for tensor in self.tensors:
            raw = tensor.reshape(-1).view(np.uint8).data
            for start in range(0, len(raw), CHUNK):
                yield raw[start : start + CHUNK]


def parse(model: ServedModel, body: memoryview, header_length: str | None) -> Asked:
    """Read a request; its tensors lie in `body` where they came as bytes.

    Raises:
        RequestError: the body is not such a request, or does not fit the model.
    """
    length = _header_length(header_length, len(body))
    content = _object(bytes(body[:length]))
    entries = _list(content, "inputs", "the request")
    check_names(model, [_text(entry, "name", "an input") for entry in entries])
    inputs: dict[str, Array] = {}
    start = length
    for entry in entries:
        name = entry["name"]
        shape = check_tensor(
            model, name, _text(entry, "datatype", f"the input {name!r}"), _sizes(entry)
        )
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            inputs[name] = _from_json(entry, shape)
        else:
            inputs[name] = _from_bytes(entry, shape, body, start, size)
            start += size
    if start != len(body):
        raise invalid(f"{len(body) - start} bytes are left behind the last tensor")
    parameters = _parameters(content)
    asked = content.get("outputs", [])
    if not isinstance(asked, list):
        raise invalid("outputs is not a list")
    names = [_text(entry, "name", "an output") for entry in asked]
    outputs = check_outputs(model, names)
    for entry in asked:
        if _parameters(entry).get("classification"):
            raise invalid("this server does not classify")
    preferred = parameters.get("binary_data_output", False)
    by_name = {entry["name"]: _parameters(entry).get("binary_data", preferred) for entry in asked}
    binary = frozenset(name for name in outputs if by_name.get(name, preferred))
    identifier = content.get("id", "")
    if not isinstance(identifier, str):
        raise invalid("the id is not a text")
    return Asked(InferenceRequest(inputs, outputs, identifier, parameters), binary)


def ready_alone(body: memoryview) -> bool:
    """Whether a request for the repository's index wants ready models only.

    Raises:
        RequestError: it is not such a request.
    """
    ready = _object(bytes(body)).get("ready", False) if body else False
    if not isinstance(ready, bool):
        raise invalid(f"ready is {ready!r}, not true or false")
    return ready


def response(model: ServedModel, asked: Asked, results: Mapping[str, Array]) -> Body:
    """The body that answers a request.

    Raises:
        RequestError: an output has no JSON form and was not asked for as bytes.
    """
    outputs: list[Json] = []
    tensors: list[Array] = []
    for metadata in model.outputs:
        name = metadata.name
        if name not in asked.request.outputs:
            continue
        array = np.ascontiguousarray(results[name])
        entry: Json = {
            "name": name,
            "datatype": metadata.datatype,
            "shape": list(array.shape),
        }
        if name in asked.binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tensors.append(array)
        else:
            entry["data"] = _to_json(metadata, array)
        outputs.append(entry)
    head: Json = {"model_name": model.name, "model_version": VERSION, "outputs": outputs}
    if asked.request.id:
        head["id"] = asked.request.id
    return Body(json.dumps(head).encode(), tuple(tensors))


def _header_length(text: str | None, total: int) -> int:
    if text is None:
        return total
    if not text.isdecimal() or len(text) > 18 or int(text) > total:
        raise invalid(f"{HEADER_LENGTH} is {text!r}, but the body has {total} bytes")
    return int(text)


def _object(text: bytes) -> Json:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise invalid("the request is not a JSON object")
    return content


def _list(content: Json, key: str, what: str) -> list[Json]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise invalid(f"{what} has no list {key} of objects")
    return entries


def _text(entry: Any, key: str, what: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str):
        raise invalid(f"{what} has no {key}")
    return value


def _parameters(entry: Json) -> Json:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("parameters is not an object")
    if "shared_memory_region" in parameters:
        raise invalid("this server shares no memory with its clients")
    size = parameters.get("binary_data_size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise invalid(f"binary_data_size is {size!r}, not a number of bytes")
    return parameters


def _sizes(entry: Json) -> Sequence[int]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        raise invalid(f"the shape of the input {entry['name']!r} is not a list of sizes")
    return shape


def _from_bytes(entry: Json, shape: Shape, body: memoryview, start: int, size: int) -> Array:
    name, datatype = entry["name"], entry["datatype"]
    if "data" in entry:
        raise invalid(f"the input {name!r} has both data and binary_data_size")
    check_byte_count(name, datatype, shape, size)
    if start + size > len(body):
        raise invalid(f"the input {name!r} is cut short: {len(body) - start} of {size} bytes came")
    return from_bytes(name, datatype, shape, body[start : start + size])


def _from_json(entry: Json, shape: Shape) -> Array:
    name, datatype = entry["name"], entry["datatype"]
    if datatype in ONLY_BINARY:
        raise invalid(f"the input {name!r} is {datatype}, which JSON has no numbers for")
    data = entry.get("data")
    if not isinstance(data, list):
        raise invalid(f"the input {name!r} has neither data nor binary_data_size")
    flat = _flat(name, data)
    if len(flat) != math.prod(shape):
        raise invalid(
            f"the input {name!r} has {len(flat)} values, but its shape needs {math.prod(shape)}"
        )
    dtype = NUMPY[datatype]
    wanted = {"b": bool, "u": int, "i": int}.get(dtype.kind, (int, float))
    for value in flat:
        if not isinstance(value, wanted) or (isinstance(value, bool) and dtype.kind != "b"):
            raise invalid(f"the input {name!r} has {value!r}, which is no {datatype}")
    try:
        with np.errstate(over="raise"):
            return np.array(flat, dtype).reshape(shape)
    except (OverflowError, FloatingPointError) as error:
        raise invalid(f"the input {name!r} has a value too large for {datatype}") from error


def _flat(name: str, data: list[Any]) -> list[Any]:
    """Nested lists, of which the protocol allows any nesting, as one."""
    flat = data
    while any(isinstance(value, list) for value in flat):
        if not all(isinstance(value, list) for value in flat):
            raise invalid(f"the input {name!r} mixes values and lists")
        flat = [value for part in flat for value in part]
    return flat


def _to_json(metadata: TensorMetadata, array: Array) -> list[Any]:
    if metadata.datatype in ONLY_BINARY:
        raise invalid(
            f"the output {metadata.name!r} is {metadata.datatype}, which JSON has no numbers for: "
            "ask for binary data"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise invalid(
            f"the output {metadata.name!r} has values that are not finite, which JSON has no "
            "numbers for: ask for binary data"
        )
    values: list[Any] = array.reshape(-1).tolist()
    return values
