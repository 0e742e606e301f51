"""Between ONNX protobufs and onnx-graphsurgeon's linked graph, losing nothing on the way back.

graph-surgeon's graphs know producers and consumers, which is what rewriting needs, but its export
drops what it has no field for (metadata, doc strings, unusual attribute types, initializers that
are also inputs, quantization annotations). So nodes remember the protobuf they came from, and
`close_graph` writes changed nodes, and only those, back into the original protobuf: whatever no
rewrite touched stays byte for byte.

One rule follows: an original node's attributes are never edited. To change them, make a new node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER

G_LOGGER.severity = G_LOGGER.ERROR
logger = logging.getLogger(__name__)


@dataclass
class Surgery:
    """An open model: its protobuf, its linked graph, and the names that are taken."""

    proto: onnx.ModelProto
    graph: gs.Graph
    names: set[str] = field(default_factory=set)

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return default_opset(self.proto)

    def unique_name(self, wish: str) -> str:
        """Return `wish`, or `wish` with a number if it is taken, and take it."""
        name, number = wish, 1
        while name in self.names:
            name, number = f"{wish}_{number}", number + 1
        self.names.add(name)
        return name

    def graphs(self) -> Iterator[gs.Graph]:
        """The main graph and every graph nested in it, outer ones first."""
        yield self.graph
        yield from self.graph.subgraphs(recursive=True)


def default_opset(proto: onnx.ModelProto) -> int:
    """Version of the default operator set that a model imports."""
    return int(next(i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")))


def open_model(proto: onnx.ModelProto) -> Surgery:
    """Link up a skeleton.

    Args:
        proto: A weight-free model (see `converter.weights`); it is written to by `close_model`.

    Returns:
        The open model, with shapes and types as ONNX's shape inference finds them.
    """
    inferred = infer_shapes(proto)
    runtime = {i.name for i in proto.graph.input}
    kept = [t for t in inferred.graph.initializer if t.name not in runtime]
    del inferred.graph.initializer[:]
    inferred.graph.initializer.extend(kept)
    del inferred.functions[:]
    _hide_bytes(inferred.graph)
    surgery = Surgery(proto, gs.import_onnx(inferred))
    _attach(surgery.graph, proto.graph, surgery.names)
    return surgery


def close_model(surgery: Surgery) -> None:
    """Write the linked graph back into `surgery.proto`.

    Nodes in no chosen order are not repaired: rewrites insert theirs where the replaced node was.
    Initializers that nothing uses any more are dropped; new ones join the main graph.
    """
    known = {t.name for t in _all_initializers(surgery.proto.graph)}
    before = {
        name for node in walk(surgery.proto.graph.node) for name in (*node.input, *node.output)
    }
    used: dict[str, gs.Tensor] = {}
    _write_nodes(surgery.graph, surgery.proto.graph, used)
    _forget(surgery.proto.graph, before - used.keys())
    for name, tensor in used.items():
        if isinstance(tensor, gs.Constant) and name not in known:
            surgery.proto.graph.initializer.append(OnnxExporter.export_tensor_proto(tensor))


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a weight-free model with the shapes and types that ONNX can infer."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        logger.info("shape inference gave up: %s", error)
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        return copy


def replace_node(graph: gs.Graph, node: gs.Node, new: list[gs.Node]) -> None:
    """Put `new` nodes where `node` was; `node` is unlinked from its tensors."""
    position = next(i for i, other in enumerate(graph.nodes) if other is node)
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes[position : position + 1] = new


def drop_unused(graph: gs.Graph, node: gs.Node, outputs: set[str]) -> bool:
    """Remove `node` if nothing consumes what it makes; `outputs` are names that must stay."""
    if any(tensor.outputs or tensor.name in outputs for tensor in node.outputs):
        return False
    replace_node(graph, node, [])
    return True


def inline_functions_with_conv(proto: onnx.ModelProto) -> None:
    """Inline local functions that reach a Conv: only there shapes and attributes are known."""
    holds = {
        (f.domain, f.name)
        for f in proto.functions
        if any(n.op_type == "Conv" for n in walk(f.node))
    }
    grown = True
    while grown:
        callers = {
            (f.domain, f.name)
            for f in proto.functions
            if any((n.domain, n.op_type) in holds for n in walk(f.node))
        }
        grown = not callers <= holds
        holds |= callers
    if not holds:
        return
    _state_default_attributes(proto)
    metadata = list(proto.metadata_props)
    inlined = onnx.inliner.inline_selected_functions(proto, sorted(holds))
    proto.CopyFrom(inlined)
    if not proto.metadata_props:
        proto.metadata_props.extend(metadata)


def unlist_constant_inputs(proto: onnx.ModelProto) -> None:
    """Before IR 4 every initializer had to be an input too, and was a constant nevertheless."""
    if proto.ir_version >= 4:
        return
    constant = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constant]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = 4


def _hide_bytes(graph: onnx.GraphProto) -> None:
    """Drop string attributes that are no text, which graph-surgeon cannot read; nodes keep them."""
    for node in walk(graph.node):
        for index, attribute in reversed(list(enumerate(node.attribute))):
            try:
                b"".join((attribute.s, *attribute.strings)).decode()
            except UnicodeDecodeError:
                del node.attribute[index]


def _state_default_attributes(proto: onnx.ModelProto) -> None:
    """Write a function's default attributes into each call: ONNX's inliner forgets them."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in proto.functions}
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in walk(nodes):
            given = {a.name for a in node.attribute}
            for attribute in defaults.get((node.domain, node.op_type, node.overload), ()):
                if attribute.name not in given:
                    node.attribute.append(attribute)


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Every node, those of nested graphs included, outer ones first."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from walk(graph.node)


def _all_initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
    for node in walk(graph.node):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from attribute.g.initializer


def _attach(graph: gs.Graph, proto: onnx.GraphProto, names: set[str]) -> None:
    """Remember each node's protobuf, and collect every name in use."""
    described = (*proto.input, *proto.output, *proto.initializer, *proto.value_info)
    names.update(t.name for t in described)
    for node, origin in zip(graph.nodes, proto.node, strict=True):
        node.origin = origin
        names.update((origin.name, *origin.input, *origin.output))
        for attribute in origin.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _attach(node.attrs[attribute.name], attribute.g, names)


def _write_nodes(graph: gs.Graph, proto: onnx.GraphProto, used: dict[str, gs.Tensor]) -> None:
    nodes = []
    for node in graph.nodes:
        used.update((t.name, t) for t in (*node.inputs, *node.outputs))
        nodes.append(_node_proto(node, used))
    del proto.node[:]
    proto.node.extend(nodes)
    used.update((t.name, t) for t in graph.outputs)


def _forget(proto: onnx.GraphProto, gone: set[str]) -> None:
    """Drop what a graph says of tensors that are gone; what no node ever used stays."""
    gone = gone - {t.name for t in (*proto.input, *proto.output)}
    for listed, name in (
        (proto.initializer, "name"),
        (proto.value_info, "name"),
        (proto.quantization_annotation, "tensor_name"),
    ):
        kept = [item for item in listed if getattr(item, name) not in gone]
        if len(kept) < len(listed):
            del listed[:]
            listed.extend(kept)
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _forget(attribute.g, gone)


def _node_proto(node: gs.Node, used: dict[str, gs.Tensor]) -> onnx.NodeProto:
    origin = getattr(node, "origin", None)
    proto = onnx.NodeProto()
    if origin is None:
        proto.CopyFrom(OnnxExporter.export_node(node))
        return proto
    proto.CopyFrom(origin)
    proto.input[:] = [t.name for t in node.inputs]
    proto.output[:] = [t.name for t in node.outputs]
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _write_nodes(node.attrs[attribute.name], attribute.g, used)
    return proto
