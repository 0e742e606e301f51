"""Run a small model, and read from it which convolutions it holds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array
from onnx.reference import ReferenceEvaluator

if TYPE_CHECKING:
    from tests.conv_case import Trial

NEWEST_OPSET = onnx.defs.onnx_opset_version()


def run(model: ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, from onnxruntime's CPU provider where it can run the model at all.

    ONNX's own reference evaluator takes what that provider has no kernel for: float64, an opset
    newer than it knows, and SAME padding of a dilated kernel. test_oracle.py compares the
    evaluator's Conv with the oracle.
    """
    names = [output.name for output in model.graph.output]
    if _needs_reference(model):
        values = ReferenceEvaluator(_dense(model)).run(None, dict(feed))
    else:
        values = session(model).run(None, dict(feed))
    return dict(zip(names, (np.asarray(value) for value in values), strict=True))


def assert_right(model: ModelProto, trial: Trial, relative: float = 0.0) -> None:
    """Every run of the trial gives the oracle's answer, in the declared type.

    `relative` widens the tolerance by that part of the largest value of an output.
    """
    types = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in trial.model.graph.output
    }
    for number, wanted in enumerate(trial.runs):
        got = run(model, wanted.feed)
        for name, answer in wanted.answers.items():
            where = f"output {name} of run {number}"
            assert got[name].dtype == types[name], where
            assert got[name].shape == answer.value.shape, where
            error = np.abs(got[name].astype(np.float64) - answer.value)
            excess = error - answer.tolerance - relative * np.abs(answer.value).max()
            assert excess.max() <= 0, f"{where}: off by {error.max():.3g}"


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _needs_reference(model: ModelProto) -> bool:
    types = {value.type.tensor_type.elem_type for value in model.graph.output}
    return (
        TensorProto.DOUBLE in types
        or opset(model) > newest_runnable_opset()
        or any(_same_and_dilated(node) for node in all_nodes(model))
    )


def _dense(model: ModelProto) -> ModelProto:
    """The same with plain Constants: at a sparse one the evaluator raises a TypeError."""
    dense = ModelProto.FromString(model.SerializeToString())
    for node in all_nodes(dense):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                sparse = attribute.sparse_tensor
                values = to_array(sparse.values)
                whole = np.zeros(tuple(sparse.dims), values.dtype)
                whole.flat[to_array(sparse.indices)] = values
                attribute.CopyFrom(helper.make_attribute("value", from_array(whole)))
    return dense


def _same_and_dilated(node: NodeProto) -> bool:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    return (
        node.op_type == "Conv"
        and values.get("auto_pad", b"").startswith(b"SAME")
        and any(dilation != 1 for dilation in values.get("dilations", ()))
    )


def opset(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


@functools.cache
def newest_runnable_opset() -> int:
    """The newest opset that this onnxruntime loads; onnx itself is usually ahead of it."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    for version in range(NEWEST_OPSET, 11, -1):
        try:
            session(make_model(graph, version))
        except Exception:
            continue
        return version
    raise AssertionError("onnxruntime runs no opset from 12 up")


def make_model(graph: GraphProto, version: int, **more: object) -> ModelProto:
    """A model of this opset, with the lowest IR version that goes with it."""
    imports = [helper.make_opsetid("", version), *more.pop("opset_imports", ())]
    model = helper.make_model(graph, opset_imports=imports, **more)
    # Functions came with IR 8.
    model.ir_version = max(
        helper.find_min_ir_version_for([imports[0]]), 8 if model.functions else 0
    )
    return model


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node: of the graph, of bodies at any depth, and of local functions."""
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield from _nodes(function.node)


def _nodes(nodes: object) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body.node)


def conv_ranks(model: ModelProto) -> list[tuple[str, int]]:
    """(output name, rank of the weights) of every Conv, functions seen through their calls."""
    inlined = onnx.inliner.inline_local_functions(model) if model.functions else model
    inferred = onnx.shape_inference.infer_shapes(inlined, data_prop=True)
    return list(_conv_ranks(inferred.graph, {}))


def _conv_ranks(graph: GraphProto, outer: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    ranks = dict(outer)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            ranks[node.output[0]] = len(node.attribute[0].t.dims)
        if node.op_type == "Conv":
            yield node.output[0], _conv_rank(node, ranks)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _conv_ranks(body, ranks)


def _conv_rank(node: NodeProto, ranks: Mapping[str, int]) -> int:
    for attribute in node.attribute:
        if attribute.name == "kernel_shape":
            return len(attribute.ints) + 2
    known = [ranks[name] for name in node.input[:2] if name in ranks]
    assert known, f"nothing tells the rank of {node.output[0]}"
    return known[0]


def conv3d_left(model: ModelProto) -> list[str]:
    return [name for name, rank in conv_ranks(model) if rank == 5]
