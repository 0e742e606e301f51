"""A PyTorch module to an ONNX skeleton: the trace, and names that say where a node comes from.

A node is called after its module and operator, as in `decoder.conv_in/Conv`, and so is the tensor
it makes; initializers keep their PyTorch names.
"""

from __future__ import annotations

import ast
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import UserError
from converter.model_file import Model
from converter.weights import BULKY_BYTES, Computed, WeightTable

if TYPE_CHECKING:
    import torch

    from models.base import Sizes

INPUT = "latent"
OUTPUT = "video"
"""Of a decoder; an encoder has them the other way round."""

OPSETS = range(18, 26)
"""PyTorch's exporter writes opset 18, and onnxscript converts that to the newer ones."""

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Under this key the exporter says which modules a node comes from, outermost first."""


def trace(
    module: torch.nn.Module,
    example: torch.Tensor,
    dynamic: Mapping[int, Sizes],
    opset: int,
    names: tuple[str, str] = (INPUT, OUTPUT),
) -> Model:
    """Trace `module` on an input; its weights stay where they are, in the module.

    Args:
        module: One tensor in, one tensor out.
        example: An input.
        dynamic: Axes of the input that are open, and the sizes that they may have.
        opset: One of `OPSETS`.
        names: Of the graph's input and output.

    Raises:
        UserError: the installed PyTorch cannot make that opset.
    """
    axes = {axis: _dim(sizes) for axis, sizes in dynamic.items()}
    given, made = names
    signature = Signature((example,), (given,), (made,), (axes,) if axes else None)
    return trace_call(module, signature, opset)


def _dim(sizes: Sizes) -> Any:
    import torch

    dim: Any = torch.export.Dim(sizes.name, min=1)
    if sizes.factor > 1:
        dim = sizes.factor * dim
    return dim + sizes.offset if sizes.offset else dim


@dataclass(frozen=True)
class Signature:
    """How a module is called: tensors, or lists of tensors, and the names that they get.

    `dynamic` is nested as `args` is, with sizes by axis, as `torch.export` takes it.
    """

    args: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[Any, ...] | None = None


def trace_call(module: torch.nn.Module, signature: Signature, opset: int) -> Model:
    """`trace` for a module of several tensors in and out."""
    import torch

    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            signature.args,
            input_names=signature.inputs,
            output_names=signature.outputs,
            dynamic_shapes=signature.dynamic,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    made = program.model.opset_imports[""]
    if made != opset:
        raise UserError(f"PyTorch {torch.__version__} makes opset {made}, not {opset}.")
    _rename(program.model.graph)
    return _skeleton(program.model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own internals from the user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _rename(graph: Any) -> None:
    """Name nodes and the tensors between them after the module they come from."""
    fixed = {value.name for value in itertools.chain(graph.inputs, graph.outputs)}
    taken = fixed | set(graph.initializers)
    for node in graph:
        scopes = [s for s in _scopes(node) if not s.startswith("_empty_nn_module_stack")]
        wish = f"{scopes[-1]}/{node.op_type}" if scopes else node.op_type
        node.name = _unused(wish, taken)
        for number, value in enumerate(node.outputs):
            if value.name not in fixed:
                value.name = node.name if number == 0 else _unused(f"{node.name}_out", taken)


def _scopes(node: Any) -> list[str]:
    """The modules around a node; the last entry of what the exporter notes is the node itself."""
    noted = node.metadata_props.get(SCOPES_KEY, "[]")
    return [scope for scope in ast.literal_eval(noted)[:-1] if scope]


def _unused(wish: str, taken: set[str]) -> str:
    name, number = wish, 1
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    taken.add(name)
    return name


def _skeleton(model: Any) -> Model:
    """The protobuf without bulky weights, and without the exporter's notes (stack traces)."""
    import onnx_ir as ir

    table = WeightTable()
    bulky: dict[str, Any] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor.nbytes >= BULKY_BYTES:
            bulky[name] = tensor
            value.const_value = ir.ExternalTensor(
                "", None, None, tensor.dtype, shape=tensor.shape, name=name
            )
    _drop_notes(model)
    proto = ir.to_proto(model)
    for initializer in proto.graph.initializer:
        if initializer.name in bulky:
            table.put(initializer, Computed(bulky[initializer.name].numpy))
    return Model(Path(), proto, table, ())


def _drop_notes(model: Any) -> None:
    graph = model.graph
    for value in itertools.chain(graph.inputs, graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    graph.metadata_props.clear()
    model.metadata_props.clear()
    graph.doc_string = model.doc_string = None
