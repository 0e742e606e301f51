"""Operators that ONNX defines by others: their definition as a small model."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.helper
import onnx.inliner

from converter.opset import Types
from converter.surgeon import infer_shapes


def definition(node: onnx.NodeProto, schema: Any, types: Types) -> onnx.ModelProto | None:
    """The definition of a node's operator, for the node's attributes and input types.

    Args:
        node: Of ONNX's own domain.
        schema: Its schema.
        types: Of the tensors that the node reads, as `converter.opset.tensor_types` gives them.

    Returns:
        A model whose inputs and outputs are named as the node's and whose opset may be older than
        the node's, or None for a primitive operator.
    """
    inputs = [
        onnx.helper.make_tensor_value_info(name, element_type(types[name]), None)
        for name in dict.fromkeys(node.input)
        if name and name in types
    ]
    call = onnx.NodeProto()
    call.CopyFrom(node)
    call.domain = ""
    if schema.has_context_dependent_function:
        typed = {i.name: i.type.SerializeToString() for i in inputs}
        untyped = onnx.TypeProto().SerializeToString()
        data = schema.get_context_dependent_function(
            call.SerializeToString(), [typed.get(name, untyped) for name in node.input]
        )
        function = onnx.FunctionProto.FromString(data)
    elif schema.has_function:
        function = schema.function_body
    else:
        return None
    call.domain = function.domain = "definition"
    function.name = node.op_type
    imports = [*function.opset_import, onnx.helper.make_opsetid("definition", 1)]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([call], "definition", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=imports, functions=[function])
    return infer_shapes(onnx.inliner.inline_local_functions(model))


def element_type(types: set[str]) -> int:
    """The ONNX element type of a tensor whose types are given as strings."""
    return int(onnx.TensorProto.DataType.Value(short(min(types)).upper()))


def short(type_name: str) -> str:
    """tensor(float16) -> float16; other types, such as sequences, stay as they are."""
    inner = type_name.removeprefix("tensor(")
    return inner.removesuffix(")") if inner != type_name else type_name
