"""Read a Conv node into everything that a rewrite may rely on, or refuse it with the reason.

Nothing here changes a graph. What is not proven (an attribute, a rank, a constant) is not assumed.

Source: ONNX Operator Specification, Conv (versions 11 and 22) and Pad (11 to 23).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import constant_shape, constant_values, is_constant
from converter.opset import LOWEST_OPSET
from converter.weights import WeightTable

SPATIAL = 3
Dim = int | str | None
"""A static size, a named dynamic one, or nothing known."""
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Refusal:
    """Why a strategy, or every strategy, cannot take a node."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


@dataclass(frozen=True)
class AutoPad:
    """SAME padding along axes whose size is known only at run time and whose stride is not 1."""

    mode: str

    def table(self, kernel: int, stride: int, dilation: int) -> list[tuple[int, int]]:
        """(begin, end) padding of one axis for each remainder of its size divided by the stride.

        The padding depends on nothing else, so the smallest size with the remainder stands for all.
        """
        return [
            same_padding(size, kernel, stride, dilation, self.mode)
            for size in (stride, *range(1, stride))
        ]


@dataclass(frozen=True)
class ConstantWeight:
    """Weights known before run time: a constant, then elementwise nodes up to the Conv.

    Attributes:
        root: The constant's tensor: an initializer, or the output of a Constant node.
        chain: Identity, Cast and DequantizeLinear nodes between `root` and the Conv, in order.
            Each treats all elements alike, or by output channel, so that they commute with any
            re-ordering of the other axes.
    """

    root: gs.Tensor
    chain: tuple[gs.Node, ...]


@dataclass(frozen=True)
class RuntimeWeight:
    """Weights that the graph computes, or is given, at run time."""

    tensor: gs.Tensor


@dataclass(frozen=True)
class Conv3D:
    """One Conv on rank-5 tensors.

    Shapes: x (N, C, T, H, W), weight (O, C/group, Kt, Kh, Kw), y (N, O, T', H', W'); triples are
    in the order T, H, W. `weight_shape` may hold None for run-time weights.

    Attributes:
        x: The input; where a constant-zero Pad is absorbed, the Pad's input.
        time_pads: (begin, end) frames of zeros, or `AutoPad` where only the run tells.
        plane_pads: (top, left, bottom, right), or `AutoPad`.
        absorbed_pad: The Pad node that `time_pads` and `plane_pads` include, if any.
    """

    name: str
    node: gs.Node
    graph: gs.Graph
    x: gs.Tensor
    y: gs.Tensor
    bias: gs.Tensor | None
    weight: ConstantWeight | RuntimeWeight
    weight_shape: tuple[int | None, ...]
    x_shape: tuple[Dim, ...]
    y_shape: tuple[Dim, ...]
    group: int
    kernel: Triple
    stride: Triple
    dilation: Triple
    time_pads: tuple[int, int] | AutoPad
    plane_pads: tuple[int, int, int, int] | AutoPad
    absorbed_pad: gs.Node | None

    @property
    def attributes(self) -> str:
        """The attributes that differ from their defaults, for a person to read."""
        parts = [f"k{_short(self.kernel)}"]
        if self.stride != (1, 1, 1):
            parts.append(f"s{_short(self.stride)}")
        if self.dilation != (1, 1, 1):
            parts.append(f"d{_short(self.dilation)}")
        if self.group != 1:
            parts.append(f"g{self.group}")
        parts.append(_pads_text(self.time_pads, self.plane_pads))
        return " ".join(parts)


@dataclass(frozen=True)
class Unread:
    """A Conv that is, or may be, a Conv3D and cannot be read: no strategy will touch it."""

    node: gs.Node
    graph: gs.Graph
    refusal: Refusal


def find_conv3d(
    graphs: Sequence[gs.Graph], weights: WeightTable, opset: int
) -> list[Conv3D | Unread]:
    """Read every Conv on rank-5 tensors, nested graphs included, in graph order."""
    found: list[Conv3D | Unread] = []
    taken: set[str] = set()
    for graph in graphs:
        for node in graph.nodes:
            if node.op != "Conv" or node.domain not in (None, "", "ai.onnx"):
                continue
            name = node.name or node.outputs[0].name
            if name in taken:
                name = node.outputs[0].name
            read = read_conv3d(node, graph, name, weights, opset)
            if read is not None:
                taken.add(name)
                found.append(read)
    return found


def read_conv3d(
    node: gs.Node, graph: gs.Graph, name: str, weights: WeightTable, opset: int
) -> Conv3D | Unread | None:
    """Read one Conv node; None if it is known not to be on rank-5 tensors.

    Preconditions, each refused with its reason:
        1. The rank is known, from the weights, `kernel_shape` or the input's shape.
        2. No attribute is a reference to a function's attribute.
        3. The kernel's three sizes are known, and `kernel_shape` agrees with the weights.
        4. Strides and dilations are three positive numbers, pads six that are not negative.
        5. `group` divides the output channels.
        6. The graph's opset has the operators that a rewrite emits.
    """

    def refuse(reason: str) -> Unread:
        return Unread(node, graph, Refusal(name, reason))

    x, w = node.inputs[0], node.inputs[1]
    x_shape, w_shape = _shape(x), _shape(w)
    kernel_shape = node.attrs.get("kernel_shape")
    if isinstance(kernel_shape, gs.Node.AttributeRef):
        kernel_shape = None
    ranks = {
        rank
        for rank in (
            len(w_shape) if w_shape is not None else None,
            len(x_shape) if x_shape is not None else None,
            len(kernel_shape) + 2 if kernel_shape else None,
        )
        if rank is not None
    }
    if not ranks:
        return refuse("neither the input's nor the weights' rank is known, so it may be a Conv3D")
    if ranks != {SPATIAL + 2}:
        return None
    if opset < LOWEST_OPSET:
        return refuse(f"the graph stays at opset {opset}, and a rewrite needs {LOWEST_OPSET}")
    for key, value in node.attrs.items():
        if isinstance(value, gs.Node.AttributeRef):
            return refuse(f"its attribute {key!r} refers to an attribute of a local function")

    weight_shape = tuple(d if isinstance(d, int) else None for d in w_shape or (None,) * 5)
    kernel = tuple(kernel_shape or weight_shape[2:])
    if any(not isinstance(k, int) or k < 1 for k in kernel):
        return refuse("the kernel's size is not known before run time")
    if any(known not in (None, k) for known, k in zip(weight_shape[2:], kernel, strict=True)):
        return refuse(f"kernel_shape {kernel} contradicts weights of shape {w_shape}")
    weight_shape = (*weight_shape[:2], *kernel)
    group = int(node.attrs.get("group", 1))
    if group < 1 or (weight_shape[0] is not None and weight_shape[0] % group):
        return refuse(f"{weight_shape[0]} output channels do not divide into {group} groups")

    for key, count, least in (("strides", 3, 1), ("dilations", 3, 1), ("pads", 6, 0)):
        values = node.attrs.get(key) or [least] * count
        if len(values) != count or min(values) < least:
            return refuse(f"its {key} are {list(values)}, not {count} numbers from {least} up")
    stride, dilation = _triple(node, "strides"), _triple(node, "dilations")
    begin, end = _explicit_pads(node)
    mode = str(node.attrs.get("auto_pad", "NOTSET"))
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        return refuse(f"auto_pad {mode!r} is not an ONNX value")
    if mode != "NOTSET":
        begin, end = (0, 0, 0), (0, 0, 0)
    pad = None if mode.startswith("SAME") else _absorbable_pad(x, graph, weights, opset)
    if pad is not None:
        begin, end = _add(begin, pad.begin), _add(end, pad.end)
        x = pad.node.inputs[0]
        x_shape = _shape(x)
    x_dims = _dims(x_shape)
    # Channels follow from the weights even where shape inference gave up.
    if x_dims[1] is None and weight_shape[1] is not None:
        x_dims = (x_dims[0], weight_shape[1] * group, *x_dims[2:])
    time_pads: tuple[int, int] | AutoPad = (begin[0], end[0])
    plane_pads: tuple[int, int, int, int] | AutoPad = (begin[1], begin[2], end[1], end[2])
    if mode.startswith("SAME"):
        pairs = [
            _same_pads(dim, k, s, d, mode)
            for dim, k, s, d in zip(x_dims[2:], kernel, stride, dilation, strict=True)
        ]
        time_pads = pairs[0] or AutoPad(mode)
        if pairs[1] is None or pairs[2] is None:
            plane_pads = AutoPad(mode)
        else:
            plane_pads = (pairs[1][0], pairs[2][0], pairs[1][1], pairs[2][1])

    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    y_dims = _dims(_shape(node.outputs[0]))
    if y_dims[1] is None:
        y_dims = (y_dims[0], weight_shape[0], *y_dims[2:])
    return Conv3D(
        name=name,
        node=node,
        graph=graph,
        x=x,
        y=node.outputs[0],
        bias=bias,
        weight=_trace_weight(w),
        weight_shape=weight_shape,
        x_shape=x_dims,
        y_shape=y_dims,
        group=group,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        time_pads=time_pads,
        plane_pads=plane_pads,
        absorbed_pad=pad.node if pad else None,
    )


def same_padding(size: int, kernel: int, stride: int, dilation: int, mode: str) -> tuple[int, int]:
    """(begin, end) zeros of one axis under auto_pad SAME_UPPER or SAME_LOWER.

    The output has ceil(size / stride) elements; an odd total puts the extra zero at the end
    (SAME_UPPER) or the beginning (SAME_LOWER).
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)


@dataclass(frozen=True)
class _PadNode:
    node: gs.Node
    begin: Triple
    end: Triple


def _absorbable_pad(
    x: gs.Tensor, graph: gs.Graph, weights: WeightTable, opset: int
) -> _PadNode | None:
    """The Pad before the Conv, if the Conv can do its work.

    1. It pads with a constant that is zero.
    2. Its amounts are constants, not negative, and zero on N and C.
    3. Nothing else reads its output, which is not an output of the graph.
    """
    if len(x.inputs) != 1 or len(x.outputs) != 1 or any(x is o for o in graph.outputs):
        return None
    node = x.inputs[0]
    if node.op != "Pad" or node.domain not in (None, "", "ai.onnx") or opset < 11:
        return None
    if not any(node is other for other in graph.nodes):
        return None
    if node.attrs.get("mode", "constant") != "constant":
        return None
    inputs = [t if t.name else None for t in node.inputs] + [None, None]
    pads = constant_values(inputs[1], weights)
    if pads is None:
        return None
    if inputs[2] is not None:
        value = constant_values(inputs[2], weights)
        if value is None or np.any(value != 0):
            return None
    axes = np.arange(SPATIAL + 2)
    if inputs[3] is not None:
        given = constant_values(inputs[3], weights)
        if given is None:
            return None
        axes = given % (SPATIAL + 2)
    if pads.size != 2 * axes.size:
        return None
    begin, end = np.zeros(5, np.int64), np.zeros(5, np.int64)
    begin[axes], end[axes] = np.split(pads, 2)
    if begin.min() < 0 or end.min() < 0 or begin[:2].any() or end[:2].any():
        return None
    return _PadNode(node, _as_triple(begin[2:]), _as_triple(end[2:]))


def _trace_weight(w: gs.Tensor) -> ConstantWeight | RuntimeWeight:
    chain: list[gs.Node] = []
    tensor = w
    while not is_constant(tensor):
        if len(tensor.inputs) != 1 or not _commutes_with_relayout(tensor.inputs[0]):
            return RuntimeWeight(w)
        chain.append(tensor.inputs[0])
        tensor = tensor.inputs[0].inputs[0]
    return ConstantWeight(tensor, tuple(reversed(chain)))


def _commutes_with_relayout(node: gs.Node) -> bool:
    """Elementwise, or per output channel (axis 0), which every relayout leaves in front."""
    if node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op in ("Identity", "Cast"):
        return True
    if node.op != "DequantizeLinear" or node.attrs.get("block_size", 0):
        return False
    scale = _shape(node.inputs[1])
    if scale is None:
        return False
    if scale in ((), (1,)):
        return True
    return node.attrs.get("axis", 1) in (0, -(SPATIAL + 2)) and len(scale) == 1


def _shape(tensor: gs.Tensor) -> tuple[Dim, ...] | None:
    shape = constant_shape(tensor)
    if shape is None:
        shape = tensor.shape
    return None if shape is None else tuple(shape)


def _dims(shape: tuple[Dim, ...] | None) -> tuple[Dim, ...]:
    if shape is None or len(shape) != SPATIAL + 2:
        return (None,) * (SPATIAL + 2)
    return shape


def _triple(node: gs.Node, key: str) -> Triple:
    return _as_triple(node.attrs.get(key) or (1, 1, 1))


def _explicit_pads(node: gs.Node) -> tuple[Triple, Triple]:
    pads = list(node.attrs.get("pads") or [0] * (2 * SPATIAL))
    return _as_triple(pads[:SPATIAL]), _as_triple(pads[SPATIAL:])


def _as_triple(values: Any) -> Triple:
    t, h, w = (int(v) for v in values)
    return t, h, w


def _add(a: Triple, b: Triple) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _same_pads(
    dim: Dim, kernel: int, stride: int, dilation: int, mode: str
) -> tuple[int, int] | None:
    """SAME padding of one axis, or None if it depends on a size that only the run knows."""
    if isinstance(dim, int):
        return same_padding(dim, kernel, stride, dilation, mode)
    if stride == 1:
        return same_padding(1, kernel, 1, dilation, mode)
    table = set(AutoPad(mode).table(kernel, stride, dilation))
    return table.pop() if len(table) == 1 else None


def _short(triple: Triple) -> str:
    return str(triple[0]) if len(set(triple)) == 1 else "x".join(map(str, triple))


def _pads_text(time: tuple[int, int] | AutoPad, plane: tuple[int, int, int, int] | AutoPad) -> str:
    if isinstance(time, AutoPad):
        return time.mode
    if isinstance(plane, AutoPad):
        return plane.mode
    top, left, bottom, right = plane
    axes = [time, (top, bottom), (left, right)]
    return "p" + ",".join(str(b) if b == e else f"{b}:{e}" for b, e in axes)
