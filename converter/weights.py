"""Bulky constants kept out of the graph: read one at a time, when asked for.

A model is worked on as a *skeleton*: every tensor of at least `BULKY_BYTES` holds, instead of its
data, a token in the form of an external-data reference. The `WeightTable` maps tokens to where the
data is: in memory, in a file, or still to be computed from other weights. So a 2 GB decoder is
planned, rewritten and checked as a graph of a few hundred kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

from converter.errors import UserError

Array = npt.NDArray[Any]

BULKY_BYTES = 1024
"""Tensors below this size stay in the skeleton: shape inference needs their values."""

TOKEN_PREFIX = "weight-token:"


@dataclass(frozen=True)
class InMemory:
    """Raw little-endian data of a tensor that is not an initializer: a Constant node's."""

    data: bytes

    def read(self) -> bytes:
        """Return the raw data."""
        return self.data


@dataclass(frozen=True)
class InFile:
    """Raw little-endian data at an offset of a file: the model's own, or an external-data file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the raw data; raises `UserError` if the file has become shorter."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.length)
        if len(data) != self.length:
            raise UserError(f"{self.path} became shorter while it was read.")
        return data


@dataclass(frozen=True)
class Computed:
    """Data made from other weights by a pure function, each time it is asked for."""

    compute: Callable[[], Array]

    def read(self) -> bytes:
        """Return the raw data of the computed array."""
        return np.ascontiguousarray(self.compute()).tobytes()


Source = InMemory | InFile | Computed


def element_bits(data_type: int) -> int:
    """Size in bits of one element of an ONNX data type (sub-byte types are packed)."""
    name = onnx.TensorProto.DataType.Name(data_type)
    for kind, bits in (("INT2", 2), ("INT4", 4), ("FLOAT4", 4), ("FLOAT6", 6)):
        if name.removeprefix("U").startswith(kind):
            return bits
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's values take as raw data; 0 for strings, which have no raw form."""
    if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return 0
    return (int(math.prod(tensor.dims)) * element_bits(tensor.data_type) + 7) // 8


class WeightTable:
    """Token -> source of the data. Tokens are unique within one table."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def put(self, tensor: onnx.TensorProto, source: Source) -> None:
        """Turn `tensor` into a token for `source`; name, dims and type stay."""
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(field)
        tensor.ClearField("uint64_data")
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", f"{TOKEN_PREFIX}{len(self._sources)}"
        self._sources.append(source)

    def holds(self, tensor: onnx.TensorProto) -> bool:
        """Whether `tensor` is a token of this table rather than holding its data itself."""
        return any(
            e.key == "location" and e.value.startswith(TOKEN_PREFIX) for e in tensor.external_data
        )

    def read(self, token: onnx.TensorProto) -> bytes:
        """The raw data behind a token."""
        return self._source(token).read()

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The tensor's values, in its own shape and type. Reads them anew at each call."""
        if not self.holds(tensor):
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        source = self._source(tensor)
        if isinstance(source, Computed):
            return source.compute()
        filled = onnx.TensorProto(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=source.read()
        )
        return np.asarray(onnx.numpy_helper.to_array(filled))

    def _source(self, token: onnx.TensorProto) -> Source:
        location = next(e.value for e in token.external_data if e.key == "location")
        return self._sources[int(location.removeprefix(TOKEN_PREFIX))]


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every dense tensor of a model: initializers and attributes, nested graphs and functions."""
    yield from graph_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node)


def graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every dense tensor of a graph, nested graphs included."""
    yield from graph.initializer
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name:
            yield attribute.t
        yield from attribute.tensors
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from graph_tensors(graph)
