"""Which nodes of a graph a target's provider takes, and why not the others: read off its kernels.

No onnxruntime and no device are needed. Four things can become of a node:

1. placed: the provider has a kernel for it.
2. constant: everything it reads is constant, so onnxruntime computes it while loading.
3. shape work: it computes with shapes, which onnxruntime sends to the CPU on purpose, because
   the result is needed there to allocate memory.
4. fallback: none of these; it runs on the CPU, with copies to and fro, or not at all.

Source of rule 3: onnxruntime's GetCpuPreferredNodes (core/framework/fallback_cpu_capability.cc).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnx.defs
import onnx.inliner

from converter.definitions import definition, short
from converter.kernels import STANDARD, Claims, Kernels, Missing, Target, Use, kernels_of
from converter.opset import Types, tensor_types
from converter.surgeon import default_opset, infer_shapes

SMALL_INITIALIZER = 100
"""Elements up to which an initializer may join shape work (as in onnxruntime)."""

DEVICES: tuple[Target, ...] = ("rocm", "cuda")
"""Targets where shape work goes to the CPU; MIGraphX compiles it with the rest."""

ON_HOST_OUTPUT = frozenset({"Shape", "Size"})
"""Operators whose GPU kernels leave their result in host memory: shape work starts there."""

ON_HOST_INPUTS: dict[str, frozenset[int]] = {
    "Clip": frozenset({1, 2}),
    "ConstantOfShape": frozenset({0}),
    "CumSum": frozenset({1}),
    "Expand": frozenset({1}),
    "If": frozenset({0}),
    "Loop": frozenset({0, 1}),
    "OneHot": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
}
"""Inputs that GPU kernels read in host memory: a node given shapes there still runs on the GPU."""


@dataclass(frozen=True)
class Fallback:
    """A node that the provider does not take.

    Attributes:
        fatal: Whether the CPU does not take it either, so that no session can be made.
    """

    node: str
    op: str
    missing: Missing
    fatal: bool = False

    @property
    def reason(self) -> str:
        """Why, in words."""
        if self.fatal:
            return f"{self.missing.reason}; nor does the CPU take it, so the graph does not load"
        return self.missing.reason


@dataclass(frozen=True)
class Placement:
    """What becomes of every node of a graph on one target.

    Attributes:
        origin: The release whose kernels were asked.
        placed: Names of the nodes that the provider takes; so for the other three.
        problems: Why the release does not load the graph at all, a sentence each.
    """

    target: Target
    provider: str
    origin: str
    placed: tuple[str, ...]
    constants: tuple[str, ...]
    shape_work: tuple[str, ...]
    fallbacks: tuple[Fallback, ...]
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing but shape work is left to the CPU."""
        return not self.fallbacks and not self.problems

    @property
    def obstacle(self) -> str:
        """Why a session cannot be made at all, in words, or empty."""
        fatal = [f"{f.node}: {f.reason}" for f in self.fallbacks if f.fatal]
        return next(iter((*self.problems, *fatal)), "")

    @property
    def nodes(self) -> int:
        """All nodes, those of nested graphs included."""
        return len(self.placed) + len(self.constants) + len(self.shape_work) + len(self.fallbacks)

    def sentence(self) -> str:
        """The counts in one line."""
        rest = [
            f"{count} {what}"
            for count, what in (
                (len(self.constants), "computed while loading"),
                (len(self.shape_work), "shape computations on the CPU by design"),
                (len(self.fallbacks), "not taken" if self.target == "cpu" else "fall to the CPU"),
            )
            if count
        ]
        counts = "; ".join([f"{len(self.placed)} of {self.nodes} nodes on {self.provider}", *rest])
        return f"{counts} ({self.origin})"

    def reasons(self) -> dict[str, list[str]]:
        """Reason -> the nodes that fall to the CPU for it, the most frequent first."""
        found: dict[str, list[str]] = {}
        for fallback in self.fallbacks:
            found.setdefault(fallback.reason, []).append(fallback.node)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "target": self.target,
            "provider": self.provider,
            "origin": self.origin,
            "complete": self.complete,
            "nodes": self.nodes,
            "placed": len(self.placed),
            "constants": len(self.constants),
            "shape_work": len(self.shape_work),
            "fallbacks": [
                {"node": f.node, "op": f.op, "reason": f.reason, "fatal": f.fatal}
                for f in self.fallbacks
            ],
            "problems": list(self.problems),
        }


def place(proto: onnx.ModelProto, target: Target, opset: int | None = None) -> Placement:
    """Ask a target's kernel table about every node of a weight-free model.

    Args:
        proto: Left as it is. Local functions are looked into where they are called.
        target: Not `generic`, which has no table.
        opset: Ask as if the model declared this opset; nodes that it lacks count as fallbacks.
    """
    kernels = kernels_of(target)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    inferred = infer_shapes(proto)
    opset = default_opset(proto) if opset is None else opset
    imports = {i.domain: i.version for i in proto.opset_import}
    for domain in STANDARD:
        imports[domain] = opset
    survey = _Survey(kernels, target in DEVICES, proto.ir_version, imports, tensor_types(inferred))
    survey.graph(inferred.graph, _Known())
    return Placement(
        target,
        kernels.provider,
        kernels.origin,
        tuple(survey.placed),
        tuple(survey.constants),
        tuple(survey.shape_work),
        tuple(survey.fallbacks),
        _problems(proto, opset, kernels),
    )


def _problems(proto: onnx.ModelProto, opset: int, kernels: Kernels) -> tuple[str, ...]:
    found = []
    if opset > kernels.newest_opset:
        found.append(f"opset {opset} is newer than {kernels.newest_opset}, the last it loads")
    if proto.ir_version > kernels.newest_ir:
        found.append(f"IR {proto.ir_version} is newer than {kernels.newest_ir}, the last it loads")
    return tuple(found)


@dataclass
class _Known:
    """Tensors of a graph, and of those around it, whose value does not come from the inputs.

    Attributes:
        constants: Name -> number of elements, where it is stated.
        shapes: Those that follow from shapes and constants alone.
        on_host: Those that onnxruntime keeps in host memory.
    """

    constants: dict[str, float] = field(default_factory=dict)
    shapes: set[str] = field(default_factory=set)
    on_host: set[str] = field(default_factory=set)


@dataclass
class _Survey:
    """Walks the graphs of a model and sorts their nodes."""

    kernels: Kernels
    shape_work_on_host: bool
    ir_version: int
    imports: dict[str, int]
    types: Types
    placed: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    shape_work: list[str] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)

    def graph(self, graph: onnx.GraphProto, outer: _Known) -> None:
        inputs = {i.name for i in graph.input}
        known = _Known(dict(outer.constants), set(outer.shapes))
        for tensor in graph.initializer:
            # From IR 4 on, one that is also an input can be given another value.
            if self.ir_version < 4 or tensor.name not in inputs:
                known.constants[tensor.name] = math.prod(tensor.dims)
        for sparse in graph.sparse_initializer:
            known.constants[sparse.values.name] = math.inf
        for node in graph.node:
            self._node(node, known, inputs)
            for attribute in node.attribute:
                for nested in (attribute.g, *attribute.graphs):
                    self.graph(nested, known)

    def _node(self, node: onnx.NodeProto, known: _Known, graph_inputs: set[str]) -> None:
        name = node.name or node.output[0]
        nested = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
        given = [i for i in node.input if i]
        if not nested and (node.op_type == "Constant" or given):
            if all(i in known.constants for i in given):
                size = 1.0 if node.op_type == "Constant" else math.inf
                known.constants.update(dict.fromkeys(node.output, size))
                self.constants.append(name)
                return
            if all(i in known.constants or i in known.shapes for i in given):
                known.shapes.update(node.output)
        if node.op_type in ON_HOST_OUTPUT:
            known.shapes.update(node.output)
        fallback = self._fallback(name, node, known)
        if fallback is not None:
            self.fallbacks.append(fallback)
        elif self.shape_work_on_host and self._is_shape_work(node, known, graph_inputs):
            known.on_host.update(node.output)
            self.shape_work.append(name)
        else:
            if node.op_type in ON_HOST_OUTPUT:
                known.on_host.update(node.output)
            self.placed.append(name)

    def _is_shape_work(self, node: onnx.NodeProto, known: _Known, graph_inputs: set[str]) -> bool:
        if not any(name in known.on_host for name in node.input):
            return False
        for index, name in enumerate(node.input):
            if not name:
                continue
            if any("float16" in t or "float8" in t for t in self.types.get(name, ())):
                return False
            if known.constants.get(name, math.inf) <= SMALL_INITIALIZER or name in graph_inputs:
                continue
            if name not in known.on_host or index in ON_HOST_INPUTS.get(node.op_type, ()):
                return False
        return True

    def _fallback(self, name: str, node: onnx.NodeProto, known: _Known) -> Fallback | None:
        """Why the provider does not take a node, nor the function that defines its operator.

        onnxruntime puts the definition in place of an operator where neither the provider nor the
        CPU has a kernel for the operator itself.
        """
        schema = self._schema(node)
        if schema is None and node.domain in STANDARD:
            reason = f"{node.op_type} does not exist at opset {self.imports['']}"
            return Fallback(name, node.op_type, Missing(reason), fatal=True)
        late = frozenset(
            i
            for i, tensor in enumerate(node.input)
            if tensor and tensor not in known.constants and tensor not in known.shapes
        )
        use = Use(
            node.op_type,
            node.domain,
            1 if schema is None else schema.since_version,
            _formal_types(node, schema, self.types),
            {a.name: _plain(a) for a in node.attribute},
            late,
        )
        missing = self.kernels.missing(use)
        if missing is None:
            return None
        on_cpu = kernels_of("cpu").missing(use)
        inner = None if on_cpu is None or schema is None else self._by_definition(node, schema)
        if inner is None:
            # What the CPU lacks in float16 alone, onnxruntime runs there in float, between Casts.
            fatal = on_cpu is not None and on_cpu.types != {"float16"}
            return Fallback(name, node.op_type, missing, fatal)
        if isinstance(self.kernels, Claims):
            reason = f"{missing.reason} and may hand back nodes around its definition"
            return Fallback(name, node.op_type, Missing(reason))
        if not inner:
            return None
        first = inner[0]
        reason = f"{node.op_type} is defined by {first.op}, and {first.missing.reason}"
        fatal = any(one.fatal for one in inner)
        return Fallback(name, node.op_type, Missing(reason, first.missing.types), fatal)

    def _by_definition(
        self, node: onnx.NodeProto, schema: onnx.defs.OpSchema
    ) -> list[Fallback] | None:
        """What the provider lacks of an operator's definition; None if there is no definition."""
        body = definition(node, schema, self.types)
        if body is None:
            return None
        imports = {i.domain: i.version for i in body.opset_import}
        survey = replace(
            self,
            imports=imports,
            types=tensor_types(body),
            placed=[],
            constants=[],
            shape_work=[],
            fallbacks=[],
        )
        survey.graph(body.graph, _Known())
        return survey.fallbacks

    def _schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
        domain = "" if node.domain in STANDARD else node.domain
        try:
            return onnx.defs.get_schema(node.op_type, self.imports.get(node.domain, 1), domain)
        except onnx.defs.SchemaError:
            return None


def _formal_types(
    node: onnx.NodeProto, schema: onnx.defs.OpSchema | None, types: Types
) -> dict[str, frozenset[str]]:
    """The node's types by type parameter and by formal name, as kernels name either."""
    found: dict[str, frozenset[str]] = {}
    if schema is None:  # onnxruntime's own operators: by custom `T` is what the first input has.
        first = types.get(node.input[0], set()) if node.input else set()
        return {"T": frozenset(map(short, first))}
    for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            if name and name in types and formal:
                parameter = formal[min(index, len(formal) - 1)]
                seen = frozenset(map(short, types[name]))
                for key in {parameter.type_str, parameter.name}:
                    found[key] = found.get(key, frozenset()) | seen
    return found


def _plain(attribute: onnx.AttributeProto) -> object:
    """A string or a number; None for what no table asks about."""
    if attribute.type == onnx.AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    return attribute.i if attribute.type == onnx.AttributeProto.INT else None
