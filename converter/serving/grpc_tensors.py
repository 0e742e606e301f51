"""Inference requests and responses as gRPC messages.

Open Inference Protocol, gRPC: tensors are bytes in `raw_input_contents`, in the order of `inputs`,
or typed values in each tensor's `contents`; responses are always raw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from converter.serving.datatypes import NUMPY, name_of
from converter.serving.errors import invalid
from converter.serving.inference import (
    InferenceRequest,
    check_byte_count,
    check_names,
    check_outputs,
    check_tensor,
    from_bytes,
)
from converter.serving.messages import message
from converter.serving.model import VERSION, ServedModel, Shape
from converter.session import Array

_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def parse(model: ServedModel, asked: Any) -> InferenceRequest:
    """Read a `ModelInferRequest`; raw tensors lie in the message's own bytes.

    Raises:
        RequestError: it does not fit the model.
    """
    check_names(model, [tensor.name for tensor in asked.inputs])
    raw = list(asked.raw_input_contents)
    if raw and len(raw) != len(asked.inputs):
        raise invalid(f"{len(asked.inputs)} inputs came with {len(raw)} raw contents")
    inputs = {}
    for number, tensor in enumerate(asked.inputs):
        if "shared_memory_region" in tensor.parameters:
            raise invalid("this server shares no memory with its clients")
        shape = check_tensor(model, tensor.name, tensor.datatype, list(tensor.shape))
        if raw:
            if tensor.HasField("contents"):
                raise invalid(f"the input {tensor.name!r} has both contents and raw contents")
            check_byte_count(tensor.name, tensor.datatype, shape, len(raw[number]))
            inputs[tensor.name] = from_bytes(tensor.name, tensor.datatype, shape, raw[number])
        else:
            inputs[tensor.name] = _from_contents(tensor, shape)
    outputs = check_outputs(model, [output.name for output in asked.outputs])
    parameters = {key: _value(value) for key, value in asked.parameters.items()}
    return InferenceRequest(inputs, outputs, asked.id, parameters)


def response(
    model: ServedModel, request: InferenceRequest, results: Mapping[str, Array], final: bool
) -> Any:
    """A `ModelInferResponse` with the outputs that were asked for; none in an empty final one."""
    made = message("ModelInferResponse")(
        model_name=model.name, model_version=VERSION, id=request.id
    )
    made.parameters["triton_final_response"].bool_param = final
    for name in request.outputs:
        if name in results:
            array = np.ascontiguousarray(results[name])
            made.outputs.add(name=name, datatype=name_of(array.dtype), shape=array.shape)
            made.raw_output_contents.append(array.tobytes())
    return made


def _from_contents(tensor: Any, shape: Shape) -> Array:
    name, datatype = tensor.name, tensor.datatype
    field = _CONTENTS.get(datatype)
    if field is None:
        raise invalid(f"the input {name!r} is {datatype}, which has raw contents only")
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(shape):
        raise invalid(
            f"the input {name!r} has {len(values)} values, but its shape needs {math.prod(shape)}"
        )
    try:
        return np.array(values, NUMPY[datatype]).reshape(shape)
    except OverflowError as error:
        raise invalid(f"the input {name!r} has a value too large for {datatype}") from error


def _value(parameter: Any) -> bool | int | float | str:
    kind = parameter.WhichOneof("parameter_choice")
    value: bool | int | float | str = getattr(parameter, kind) if kind else ""
    return value
