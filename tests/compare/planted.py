"""A small decoder-like graph, its conversion, and faults planted into one of its layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from converter import convert
from tests.compare.graphs import model

LAYERS = 6
CHANNELS = 6
DIMS = (1, CHANNELS, 4, 8, 10)


def decoder() -> onnx.ModelProto:
    """Six Conv3Ds c0..c5 with biases, a sigmoid gate after each, and two residual sums."""
    random = np.random.default_rng(3)
    nodes, initializers = [], []
    previous, kept = "x", None
    for number in range(LAYERS):
        shape = (CHANNELS, CHANNELS, 3, 3, 3)
        weights = (random.standard_normal(shape) / 9).astype(np.float32)
        bias = random.uniform(0.2, 0.6, CHANNELS).astype(np.float32)
        initializers += [
            numpy_helper.from_array(weights, f"w{number}"),
            numpy_helper.from_array(bias, f"b{number}"),
        ]
        nodes += [
            helper.make_node(
                "Conv",
                [previous, f"w{number}", f"b{number}"],
                [f"c{number}"],
                name=f"conv{number}",
                pads=[2, 1, 1, 0, 1, 1],
            ),
            helper.make_node("Sigmoid", [f"c{number}"], [f"s{number}"]),
            helper.make_node("Mul", [f"c{number}", f"s{number}"], [f"a{number}"]),
        ]
        previous = f"a{number}"
        if number % 3 == 2 and kept:
            nodes.append(helper.make_node("Add", [previous, kept], [f"r{number}"]))
            previous = f"r{number}"
        if number % 3 == 0:
            kept = previous
    nodes[-1].output[0] = "y"
    return model(nodes, [("x", 1, list(DIMS))], [("y", 1, list(DIMS))], initializers)


def converted(folder: Path, strategy: str = "auto") -> tuple[Path, Path]:
    """The decoder and its conversion."""
    source, output = folder / "reference.onnx", folder / "candidate.onnx"
    onnx.save(decoder(), str(source))
    convert(source, output, strategy=strategy, validate=False)
    return source, output


def plant(path: Path, layer: int, fault: Callable[[onnx.GraphProto, list[onnx.NodeProto]], None]):
    """Apply `fault` to the Convs that make layer `layer` in the converted graph."""
    proto = onnx.load(str(path))
    fault(proto.graph, _convs(proto, layer))
    planted = path.with_name("planted.onnx")
    onnx.save(proto, str(planted))
    return planted


def change_a_weight(graph: onnx.GraphProto, convs: list[onnx.NodeProto]) -> None:
    """The largest weight by three tenths of itself."""
    weights = _weights(graph, convs[0])
    flat = weights.reshape(-1)
    flat[np.abs(flat).argmax()] *= 1.3
    _put(graph, convs[0], weights)


def shift_a_pad(graph: onnx.GraphProto, convs: list[onnx.NodeProto]) -> None:
    """One row of zeros before goes behind, so that every shape stays."""
    for conv in convs:
        pads = next(a for a in conv.attribute if a.name == "pads")
        assert list(pads.ints) == [1, 1, 1, 1]
        pads.ints[:] = [2, 1, 0, 1]


def drop_the_bias(graph: onnx.GraphProto, convs: list[onnx.NodeProto]) -> None:
    """Of the Conv that has one."""
    with_bias = [conv for conv in convs if len(conv.input) == 3]
    assert with_bias
    for conv in with_bias:
        del conv.input[2]


def swap_two_taps(graph: onnx.GraphProto, convs: list[onnx.NodeProto]) -> None:
    """The first and the second frame's weights, side by side on the channel axis."""
    weights = _weights(graph, convs[0])
    assert weights.shape[1] == 3 * CHANNELS
    first = weights[:, :CHANNELS].copy()
    weights[:, :CHANNELS] = weights[:, CHANNELS : 2 * CHANNELS]
    weights[:, CHANNELS : 2 * CHANNELS] = first
    _put(graph, convs[0], weights)


def _convs(proto: onnx.ModelProto, layer: int) -> list[onnx.NodeProto]:
    """The Convs between the layers before and this one, by the provenance."""
    texts = {entry.key: entry.value for entry in proto.metadata_props}
    tensors = {k: v["tensor"] for k, v in json.loads(texts["convert_vae.outputs"]).items()}
    stops = {tensor for name, tensor in tensors.items() if name != f"c{layer}"}
    producers = {name: node for node in proto.graph.node for name in node.output}
    found, pending = [], [tensors[f"c{layer}"]]
    while pending:
        name = pending.pop()
        if name in stops or name not in producers:
            continue
        node = producers[name]
        if node.op_type == "Conv" and node not in found:
            found.append(node)
        pending.extend(node.input)
    return found


def _weights(graph: onnx.GraphProto, conv: onnx.NodeProto) -> np.ndarray:
    tensor = next(t for t in graph.initializer if t.name == conv.input[1])
    return numpy_helper.to_array(tensor).copy()


def _put(graph: onnx.GraphProto, conv: onnx.NodeProto, weights: np.ndarray) -> None:
    tensor = next(t for t in graph.initializer if t.name == conv.input[1])
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
