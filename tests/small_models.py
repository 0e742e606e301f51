"""Tiny models for tests of everything but the numbers: those have tests/graphs.py and an oracle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

Dims = Sequence[int | str | None]
VIDEO: Dims = (1, 4, 3, 6, 8)


def draw(shape: Sequence[int], seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def value(name: str, dims: Dims | None, elem_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, dims)


def model(
    nodes: Iterable[NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    initializers: Iterable[TensorProto] = (),
    *,
    opset: int = 18,
    ir_version: int = 10,
    functions: Iterable[onnx.FunctionProto] = (),
) -> ModelProto:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1) for domain in sorted({f.domain for f in functions})]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=ir_version, functions=list(functions)
    )


def conv3d(
    *, dims: Dims = VIDEO, opset: int = 18, kernel: Sequence[int] = (3, 3, 3), **attributes: object
) -> ModelProto:
    """x (1, 4, 3, 6, 8) -> Conv "conv" with 8 output channels -> y; the weights are bulky."""
    channels = dims[1] if isinstance(dims[1], int) else 4
    weights = draw((8, channels, *kernel), 1) / 8
    attributes = {"pads": [k // 2 for k in kernel] * 2, **attributes}
    return model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", **attributes)],
        [value("x", dims)],
        [value("y", [None] * 5)],
        [from_array(weights, "w"), from_array(draw((8,), 2), "b")],
        opset=opset,
    )


def two_conv3d() -> ModelProto:
    """x -> "first" -> Relu -> "second" -> y, each with weights of its own."""
    return model(
        [
            helper.make_node("Conv", ["x", "w1"], ["m"], name="first", pads=[1] * 6),
            helper.make_node("Relu", ["m"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w2"], ["y"], name="second", pads=[1] * 6),
        ],
        [value("x", VIDEO)],
        [value("y", [1, 4, 3, 6, 8])],
        [
            from_array(draw((4, 4, 3, 3, 3), 1) / 8, "w1"),
            from_array(draw((4, 4, 3, 3, 3), 2) / 8, "w2"),
        ],
    )


def conv2d() -> ModelProto:
    """A graph without a Conv3D."""
    return model(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="plane", pads=[1] * 4)],
        [value("x", [1, 8, 6, 8])],
        [value("y", [1, 8, 6, 8])],
        [from_array(draw((8, 8, 3, 3), 1), "w")],
    )


def save(proto: ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def save_external(proto: ModelProto, path: Path, data: str = "weights.bin") -> Path:
    """Save with every tensor of at least 64 bytes in the file `data` beside the model."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    onnx.save(
        copy,
        path,
        save_as_external_data=True,
        location=data,
        size_threshold=64,
        convert_attribute=True,
    )
    return path


def all_nodes(graph: GraphProto) -> list[NodeProto]:
    """Every node, nested graphs included."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                nodes += all_nodes(attribute.g)
            for nested in attribute.graphs:
                nodes += all_nodes(nested)
    return nodes


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
