"""Just enough of protobuf's wire format to leave weights out of the parse, and out of the write.

A model file with its weights inside is mostly `ModelProto.graph.initializer[i].raw_data`. Parsing
and serialising it whole costs several times its size in memory, so both directions cut: `split`
gives the file without that data and where each piece lies, `write_model` streams it back in.

Source: Protocol Buffers Documentation, "Encoding"; field numbers from onnx.proto (ONNX IR spec).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import onnx

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9

LENGTH_DELIMITED = 2
FIXED_SIZES = {1: 8, 5: 4}

Span = tuple[int, int]
"""(offset, length) in the file."""


class WireError(ValueError):
    """The bytes are not a protobuf message, or end too early."""


@dataclass(frozen=True)
class Bulky:
    """An initializer that is written apart from its model.

    Attributes:
        tensor: Name, dims, type and the like, without data.
        size: Bytes of its raw data.
        read: Returns the raw data.
    """

    tensor: onnx.TensorProto
    size: int
    read: Callable[[], bytes]


def split(view: memoryview, threshold: int) -> tuple[bytes, list[Span | None]]:
    """Cut `raw_data` of at least `threshold` bytes out of a serialised ModelProto's initializers.

    Returns:
        The serialised model without that data, and for each initializer of the main graph, in
        order, where its data lies in `view`, or None where nothing was cut.

    Raises:
        WireError: `view` is not a protobuf message or is truncated.
    """
    spans: list[Span | None] = []

    def model_field(number: int, field: memoryview, start: int) -> bytes | None:
        return _rebuild(field, start, graph_field) if number == MODEL_GRAPH else None

    def graph_field(number: int, field: memoryview, start: int) -> bytes | None:
        if number != GRAPH_INITIALIZER:
            return None
        spans.append(None)
        return _rebuild(field, start, tensor_field)

    def tensor_field(number: int, field: memoryview, start: int) -> bytes | None:
        if number != TENSOR_RAW_DATA:
            return None
        # Of a field that occurs twice the last one counts, so what came before is forgotten.
        bulky = len(field) >= threshold
        spans[-1] = (start, len(field)) if bulky else None
        return b"" if bulky else None

    return _rebuild(view, 0, model_field), spans


def write_model(file: BinaryIO, skeleton: onnx.ModelProto, initializers: Sequence[Bulky]) -> None:
    """Write `skeleton` with `initializers` added to its main graph, reading one at a time."""
    head = onnx.ModelProto()
    head.CopyFrom(skeleton)
    head.ClearField("graph")
    graph = skeleton.graph.SerializeToString()
    frames = [_tensor_frame(bulky) for bulky in initializers]
    length = len(graph) + sum(map(len, frames)) + sum(bulky.size for bulky in initializers)
    file.write(head.SerializeToString())
    file.write(_tag(MODEL_GRAPH) + _varint(length))
    file.write(graph)
    for frame, bulky in zip(frames, initializers, strict=True):
        data = bulky.read()
        assert len(data) == bulky.size, f"{bulky.tensor.name} has not the size that was announced"
        file.write(frame)
        file.write(data)


def _tensor_frame(bulky: Bulky) -> bytes:
    """All of an initializer field but the data itself, which comes last."""
    body: bytes = bulky.tensor.SerializeToString() + _tag(TENSOR_RAW_DATA) + _varint(bulky.size)
    return _tag(GRAPH_INITIALIZER) + _varint(len(body) + bulky.size) + body


def _rebuild(
    view: memoryview, base: int, replace: Callable[[int, memoryview, int], bytes | None]
) -> bytes:
    """Copy a message, with the length-delimited fields that `replace` answers for replaced.

    `replace` gets a field's number, its payload and the payload's offset in the file; None keeps
    the field as it is.
    """
    pieces: list[bytes | memoryview] = []
    for number, wire_type, start, payload, end in _fields(view):
        new = (
            replace(number, view[payload:end], base + payload)
            if wire_type == LENGTH_DELIMITED
            else None
        )
        if new is None:
            pieces.append(view[start:end])
        else:
            pieces += [_tag(number), _varint(len(new)), new]
    return b"".join(pieces)


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (number, wire type, start of the field, start of its payload, end) of each field."""
    position = 0
    while position < len(view):
        start = position
        key, position = _read_varint(view, position)
        number, wire_type = key >> 3, key & 7
        payload = position
        if wire_type == 0:
            _, position = _read_varint(view, position)
        elif wire_type in FIXED_SIZES:
            position += FIXED_SIZES[wire_type]
        elif wire_type == LENGTH_DELIMITED:
            size, payload = _read_varint(view, position)
            position = payload + size
        else:
            raise WireError(f"unknown wire type {wire_type} at byte {start}")
        if position > len(view):
            raise WireError(f"field {number} ends beyond the message")
        yield number, wire_type, start, payload, position


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(view) and shift < 64:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise WireError(f"a number at byte {position} does not end")


def _tag(number: int) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
