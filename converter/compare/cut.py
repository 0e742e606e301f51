"""Parts of a graph as models of their own, which share one copy of the weights on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from converter import model_file
from converter.compare.interface import load_skeleton
from converter.surgeon import default_opset

WHOLE, WEIGHTS = "whole.onnx", "whole.data"
PART = "part.onnx"


class Workbench(tempfile.TemporaryDirectory[str]):
    """A copy of a model in a temporary folder, from which parts are cut.

    Parts refer to the copy's external data, so a part is a file of some kilobytes however large
    the weights are. Only nodes of the main graph are cut; bodies of If and Loop move whole.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        folder = Path(self.name)
        weights = model_file.DataFile(folder / WEIGHTS)
        model_file.write(model_file.load(path), folder / WHOLE, weights)
        self._model = load_skeleton(folder / WHOLE)
        graph = self._model.graph
        self._producers = {
            name: number for number, node in enumerate(graph.node) for name in node.output if name
        }
        self._held = {tensor.name for tensor in graph.initializer}
        self._held |= {tensor.values.name for tensor in graph.sparse_initializer}
        self._inputs = {value.name: value for value in graph.input if value.name not in self._held}

    @property
    def opset(self) -> int:
        """Of the default domain."""
        return default_opset(self._model)

    def has(self, tensor: str) -> bool:
        """Whether a node of the main graph makes the tensor."""
        return tensor in self._producers

    def order(self, tensor: str) -> int:
        """Where in the graph the tensor is made."""
        return self._producers[tensor]

    def frontier(self, tensor: str, stops: Collection[str]) -> tuple[str, ...]:
        """The tensors of `stops` and the graph inputs that `tensor` is computed from."""
        _, border = self._walk([tensor], stops)
        return tuple(border)

    def part(self, outputs: Collection[str], feed: Mapping[str, np.dtype[Any]]) -> Path:
        """Write the part that computes `outputs` from `feed`: tensor names and their types.

        Graph inputs need not be named. The file lasts until the next part is written.
        """
        numbers, border = self._walk(outputs, feed)
        graph = self._model.graph
        cut = onnx.ModelProto()
        cut.CopyFrom(onnx.ModelProto(ir_version=self._model.ir_version))
        cut.opset_import.extend(self._model.opset_import)
        cut.functions.extend(self._model.functions)
        cut.graph.name = "part"
        nodes = [graph.node[number] for number in sorted(numbers)]
        cut.graph.node.extend(nodes)
        needed = {name for node in nodes for name in _reads(node)}
        cut.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
        cut.graph.sparse_initializer.extend(
            t for t in graph.sparse_initializer if t.values.name in needed
        )
        for name in border:
            cut.graph.input.append(
                _stated(name, feed[name]) if name in feed else self._inputs[name]
            )
        cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        path = Path(self.name) / PART
        path.write_bytes(cut.SerializeToString())
        return path

    def _walk(
        self, starts: Collection[str], stops: Collection[str]
    ) -> tuple[set[int], dict[str, None]]:
        """The nodes behind `starts`, and what they need of `stops` and of the graph's inputs.

        A start that is a stop is computed all the same.
        """
        nodes: set[int] = set()
        border: dict[str, None] = {}
        pending = list(starts)
        first = set(starts)
        while pending:
            name = pending.pop()
            if name in stops and name not in first:
                border[name] = None
            elif name in self._producers:
                number = self._producers[name]
                if number not in nodes:
                    nodes.add(number)
                    pending.extend(_reads(self._model.graph.node[number]))
            elif name in self._inputs:
                border[name] = None
            first.discard(name)
        return nodes, border


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, the bodies of If, Loop and Scan included; their own names may be too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs]:
            for inner in body.node:
                yield from _reads(inner)
            yield from (value.name for value in body.output)


def _stated(name: str, dtype: np.dtype[Any]) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)
    return value
