"""Load and save ONNX files: external data, and the 2 GB limit of protobuf.

Neither direction ever holds all the weights in memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import onnx
import onnx.checker
import onnx.numpy_helper
from google.protobuf.message import DecodeError, Message

from converter import wire
from converter.errors import UserError
from converter.weights import (
    BULKY_BYTES,
    InFile,
    InMemory,
    WeightTable,
    tensor_bytes,
    tensors,
)

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can hold (protobuf encoding documentation)."""

AUTO_EXTERNAL_BYTES = 256_000_000
"""From this size on, `external_data="auto"` moves the weights out of the model file.

onnxruntime maps a data file, and holds weights that are in the model file once more while it relays
them: a process takes 0.57 GB in place of 1.03 to load 0.46 GB of weights.
"""

ALIGNMENT = 4096
"""External tensors start at page boundaries, so that a runtime can map them."""

ELEMENT_TYPES = frozenset(onnx.TensorProto.DataType.values())

ExternalData = Literal["auto", "always", "never"]


@dataclass
class Model:
    """A loaded model: the skeleton and the table that says where its bulky tensors are."""

    path: Path
    proto: onnx.ModelProto
    weights: WeightTable
    external_files: tuple[Path, ...]


def load(path: Path) -> Model:
    """Read an ONNX file into a skeleton.

    Raises:
        UserError: not there, empty, truncated, not ONNX, not a valid graph, or its external data
            is missing, too short, or outside the model's own folder.
    """
    proto, spans = parse(path)
    table = WeightTable()
    files: dict[Path, None] = {}
    for tensor in tensors(proto):
        _check_type(path, tensor)
    for tensor, span in zip(proto.graph.initializer, spans, strict=True):
        if span is not None:
            _check_size(path, tensor, span[1])
            table.put(tensor, InFile(path, *span))
    for tensor in tensors(proto):
        if table.holds(tensor):
            continue
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            source = _external_source(path, tensor)
            files[source.path] = None
            if tensor_bytes(tensor) < BULKY_BYTES:
                _make_inline(tensor, source)
            else:
                table.put(tensor, source)
        elif tensor.HasField("raw_data"):
            _check_size(path, tensor, len(tensor.raw_data))
            if tensor_bytes(tensor) >= BULKY_BYTES:
                table.put(tensor, InMemory(tensor.raw_data))
        else:
            _check_values(path, tensor)
    # Clearing a field does not give its memory back; copying what is left does.
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    model = Model(path, skeleton, table, tuple(files))
    check(model.proto, str(path))
    return model


def check(skeleton: onnx.ModelProto, what: str) -> None:
    """Run ONNX's checker on a weight-free copy; raises `UserError` with its first complaint."""
    copy = onnx.ModelProto()
    copy.CopyFrom(skeleton)
    for tensor in tensors(copy):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
            tensor.dims[:] = [0]
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        complaint = " ".join(str(error).split()).removesuffix(" ==> Context: Bad node spec")
        raise UserError(f"{what} is not a valid ONNX graph: {complaint}") from error


def digest(model: Model) -> str:
    """SHA-256 over the model file and its external-data files, in hexadecimal."""
    sha = hashlib.sha256()
    for path in (model.path, *model.external_files):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Raw bytes of all tensors of a skeleton."""
    return sum(tensor_bytes(t) for t in tensors(proto))


def wants_external(model: Model, external_data: ExternalData) -> bool:
    """Whether the weights go into a file of their own.

    Raises:
        UserError: `never` was asked for and the file would exceed protobuf's 2 GB.
    """
    size = weight_bytes(model.proto)
    if external_data == "always":
        return True
    if external_data == "never":
        if size + model.proto.ByteSize() > PROTOBUF_LIMIT:
            raise UserError(
                f"the model needs {size / 1e9:.2f} GB and a single ONNX file ends at 2 GB: "
                "leave --external-data at auto."
            )
        return False
    return bool(model.external_files) or size > AUTO_EXTERNAL_BYTES


def parse(path: Path) -> tuple[onnx.ModelProto, list[wire.Span | None]]:
    """Parse a model file, less the bulky data of its initializers, whose places are returned."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(f"{path} is not a file.")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty.")
    if size > PROTOBUF_LIMIT:
        raise UserError(f"{path} is over 2 GB, more than an ONNX file can hold: not ONNX?")
    proto = onnx.ModelProto()
    with path.open("rb") as file:
        # Never closed: an exception on its way, Ctrl-C too, still holds slices of it.
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        skeleton, spans = wire.split(mapped, BULKY_BYTES)
        proto.ParseFromString(skeleton)
    except (wire.WireError, DecodeError) as error:
        raise UserError(f"{path} is not an ONNX file, or is truncated.") from error
    if not proto.HasField("graph") or proto.ir_version < 1:
        raise UserError(f"{path} is not an ONNX file: it holds no graph.")
    fault = _fault(proto)
    if fault:
        raise UserError(f"{path} is not a valid ONNX file: {fault}.")
    if not any(i.domain in ("", "ai.onnx") for i in proto.opset_import):
        raise UserError(f"{path} does not say which ONNX opset it uses.")
    return proto, spans


def _fault(message: Message) -> str | None:
    """What neither protobuf nor ONNX's checker looks at, and everything else relies on."""
    if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type not in ELEMENT_TYPES:
        return f"it has a tensor of type {message.elem_type}, which ONNX does not know"
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for item in (value,) if isinstance(value, str | bytes | Message) else value:
            fault = _fault(item) if isinstance(item, Message) else None
            if isinstance(item, bytes):  # What protobuf hands out in place of a string.
                fault = f"the {field.name} {item!r} is not UTF-8"
            if fault:
                return fault
    return None


def _check_type(path: Path, tensor: onnx.TensorProto) -> None:
    where = f"{path}: tensor {tensor.name!r}"
    if tensor.data_type not in ELEMENT_TYPES:
        raise UserError(f"{where} has the type {tensor.data_type}, which ONNX does not know.")
    if any(dim < 0 for dim in tensor.dims):
        raise UserError(f"{where} has a negative size: {list(tensor.dims)}.")


def _check_values(path: Path, tensor: onnx.TensorProto) -> None:
    """Values that lie in a typed field: as many as the shape says."""
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        return  # The checker says so.
    try:
        onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: tensor {tensor.name!r} does not hold the values that its shape "
            f"{list(tensor.dims)} and type need."
        ) from error


def _check_size(path: Path, tensor: onnx.TensorProto, size: int) -> None:
    if size != tensor_bytes(tensor):
        raise UserError(
            f"{path}: tensor {tensor.name!r} holds {size} bytes where its shape and type need "
            f"{tensor_bytes(tensor)}."
        )


def _external_source(path: Path, tensor: onnx.TensorProto) -> InFile:
    entries = {e.key: e.value for e in tensor.external_data}
    where = f"{path}: external data of tensor {tensor.name!r}"
    location = Path(entries.get("location", ""))
    file = path.parent / location
    # A model in a content-addressed cache is a link, and so is its data: both targets count.
    folders = (path.parent.resolve(), path.resolve().parent)
    inside = "\0" not in str(location) and any(
        file.resolve().is_relative_to(folder) for folder in folders
    )
    if location.is_absolute() or ".." in location.parts or not inside:
        raise UserError(f"{where} points outside the model's folder ({str(location)!r}); refused.")
    if not file.is_file():
        raise UserError(f"{where} is missing: {file} does not exist.")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", tensor_bytes(tensor)))
    except ValueError as error:
        raise UserError(f"{where} has an offset or length that is not a number.") from error
    if length != tensor_bytes(tensor) or offset < 0:
        raise UserError(
            f"{where} is {length} bytes at offset {offset} where {tensor_bytes(tensor)} are needed."
        )
    if offset + length > file.stat().st_size:
        raise UserError(
            f"{where} needs bytes {offset} to {offset + length}, but {file} is shorter."
        )
    return InFile(file, offset, length)


def _make_inline(tensor: onnx.TensorProto, source: InFile) -> None:
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.raw_data = source.read()


class DataFile:
    """An external-data file; weights of the same bytes, of one or several models, lie there once.

    Args:
        path: The file, made when the first weight comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, int] = {}

    def put(self, weights: Iterable[bytes]) -> Iterator[tuple[int, int]]:
        """Write weights one at a time and flush them; yields (offset, length) of each."""
        with self.path.open("ab") as file:
            for data in weights:
                yield self._place(file, data), len(data)
            file.flush()
            os.fsync(file.fileno())

    def _place(self, file: BinaryIO, data: bytes) -> int:
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            file.write(bytes(-file.tell() % ALIGNMENT))
            self._places[key] = file.tell()
            file.write(data)
        return self._places[key]


def write(model: Model, model_path: Path, data: DataFile | None) -> None:
    """Write the skeleton with its weights, one weight at a time, and flush to the disk.

    Args:
        model: The model; its weights are read where they are.
        model_path: The file to write, not one that the weights are read from.
        data: The file for the external data, if there shall be any.
    """
    table = model.weights
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    bulky = [t for t in model.proto.graph.initializer if table.holds(t)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(t for t in model.proto.graph.initializer if not table.holds(t))
    for tensor in tensors(proto):  # Constant nodes and nested graphs: inline for every runtime.
        if table.holds(tensor):
            tensor.raw_data = table.read(tensor)
            _forget_location(tensor)
    if data is not None and bulky:
        places = data.put(table.read(token) for token in bulky)
        proto.graph.initializer.extend(
            _external(token, data.path.name, *place)
            for token, place in zip(bulky, places, strict=True)
        )
        bulky = []
    with model_path.open("wb") as file:
        wire.write_model(file, proto, [_inline(table, token) for token in bulky])
        os.fsync(file.fileno())


def _inline(table: WeightTable, token: onnx.TensorProto) -> wire.Bulky:
    bare = onnx.TensorProto()
    bare.CopyFrom(token)
    _forget_location(bare)
    return wire.Bulky(bare, tensor_bytes(bare), lambda: table.read(token))


def _external(token: onnx.TensorProto, location: str, offset: int, length: int) -> onnx.TensorProto:
    """The tensor that refers to its data in the external-data file."""
    tensor = onnx.TensorProto()
    tensor.CopyFrom(token)
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


def _forget_location(tensor: onnx.TensorProto) -> None:
    del tensor.external_data[:]
    tensor.ClearField("data_location")
