"""How each operator lets a view pass: rules of the frame-major pass, one function a kind.

A rule looks at a node of which at least one input B is a view of a source A. It either emits a
node that does the same to A, declares the output a view of the new node's output, and returns
True; or it returns False, having emitted nothing, and the view will be made.

Axis numbers of an operator refer to B; `View.axes` says which axis of A each one is.

Source: ONNX Operator Specification, for each operator.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from converter.constants import constant_shape, constant_values, is_constant
from converter.layout.context import Context, Dims
from converter.layout.reshape import regroup
from converter.layout.view import View

Rule = Callable[[gs.Node, Context], bool]


def source_shape(view: View, shape: Dims | None) -> list[int | str | None] | None:
    """The shape of the source of a view of this shape."""
    if shape is None or len(shape) != view.rank:
        return None
    return [shape[view.axis_of(a)] for a in range(view.source_rank)]


def _main_view(node: gs.Node, context: Context, position: int = 0) -> View | None:
    return context.views.get(node.inputs[position].name)


def transpose(node: gs.Node, context: Context) -> bool:
    """A Transpose of a view is a view."""
    view = _main_view(node, context)
    if view is None:
        return False
    perm = node.attrs.get("perm") or list(reversed(range(view.rank)))
    context.views[node.outputs[0].name] = view.transpose(perm)
    return True


def _axes(node: gs.Node, context: Context) -> list[int] | None:
    """Axes of a node that has them as an attribute or as its second input."""
    if "axes" in node.attrs:
        return [int(a) for a in node.attrs["axes"]]
    return context.ints_of(node.inputs[1] if len(node.inputs) > 1 else None)


def squeeze(node: gs.Node, context: Context) -> bool:
    """A Squeeze of axes that the source does not have is a view."""
    view, axes = _main_view(node, context), _axes(node, context)
    if view is None or axes is None:
        return False
    result = view.squeeze([a % view.rank for a in axes])
    if result is None:
        return False
    context.views[node.outputs[0].name] = result
    return True


def unsqueeze(node: gs.Node, context: Context) -> bool:
    """An Unsqueeze of a view is a view."""
    view, axes = _main_view(node, context), _axes(node, context)
    if view is None or axes is None:
        return False
    rank = view.rank + len(axes)
    context.views[node.outputs[0].name] = view.unsqueeze([a % rank for a in axes])
    return True


def reshape(node: gs.Node, context: Context) -> bool:
    """A Reshape that splits axes, merges neighbours of A, or adds and drops axes of size 1."""
    view = _main_view(node, context)
    x, y = node.inputs[0], node.outputs[0]
    if view is None or x.shape is None or y.shape is None:
        return False
    grouped = regroup(view, x.shape, y.shape)
    if grouped is None:
        return False
    source = view.source
    if grouped.target is not None:
        # A Reshape of a Reshape is one Reshape.
        if len(source.inputs) == 1 and source.inputs[0].op == "Reshape" and 0 not in grouped.target:
            source = source.inputs[0].inputs[0]
        shape = [y.shape[b] for b in grouped.source_axes]
        source = context.emit("Reshape", [source, context.shop.ints(grouped.target)], y, shape)
    context.views[y.name] = View(source, grouped.axes)
    return True


def elementwise(node: gs.Node, context: Context) -> bool:
    """f(B, ...) is the view of f(A, ...), the other inputs brought into the layout of A."""
    inputs = [t for t in node.inputs if t.name]
    views = [context.views[t.name] for t in inputs if t.name in context.views]
    view = max(views, key=lambda v: v.rank)
    if any(t.shape is None and t.name not in context.views for t in inputs):
        return False
    if not all(context.can_align(t, view) for t in inputs):
        return False
    y = node.outputs[0]
    aligned = [context.align(t, view) if t.name else t for t in node.inputs]
    result = context.emit(node.op, aligned, y, source_shape(view, y.shape), **node.attrs)
    context.views[y.name] = view.of(result)
    return True


def unary(node: gs.Node, context: Context) -> bool:
    """f(B, parameters) is the view of f(A, parameters); the parameters are no tensors like B."""
    view = _main_view(node, context)
    if view is None or any(t.name in context.views for t in node.inputs[1:]):
        return False
    y = node.outputs[0]
    inputs = [view.source, *node.inputs[1:]]
    result = context.emit(node.op, inputs, y, source_shape(view, y.shape), **node.attrs)
    context.views[y.name] = view.of(result)
    return True


def reduce(node: gs.Node, context: Context) -> bool:
    """A reduction over axes that A has, kept as axes of size 1."""
    view, axes = _main_view(node, context), _axes(node, context)
    if view is None or not axes or not node.attrs.get("keepdims", 1):
        return False
    mapped = [view.axes[a % view.rank] for a in axes]
    if any(a is None for a in mapped):
        return False
    target = sorted(a for a in mapped if a is not None)
    y = node.outputs[0]
    attributes = {k: v for k, v in node.attrs.items() if k != "axes"}
    inputs = [view.source]
    if "axes" in node.attrs:
        attributes["axes"] = target
    else:
        inputs.append(context.shop.ints(target))
    result = context.emit(node.op, inputs, y, source_shape(view, y.shape), **attributes)
    context.views[y.name] = view.of(result)
    return True


def along_axis(default: int) -> Rule:
    """For operators that work along one axis and keep the rank, such as Softmax."""

    def rule(node: gs.Node, context: Context) -> bool:
        view = _main_view(node, context)
        if view is None or (node.op in SINCE_13 and context.surgery.opset < 13):
            return False
        axis = view.axes[int(node.attrs.get("axis", default)) % view.rank]
        if axis is None or any(t.name in context.views for t in node.inputs[1:]):
            return False
        attributes = {**node.attrs, "axis": axis}
        outputs = []
        for y in node.outputs:
            name = context.surgery.unique_name(f"{y.name}/frames")
            shape = source_shape(view, y.shape)
            outputs.append(gs.Variable(name, y.dtype, shape))
            context.views[y.name] = view.of(outputs[-1])
        context.nodes.append(
            gs.Node(
                node.op,
                outputs[0].name,
                attributes,
                inputs=[view.source, *node.inputs[1:]],
                outputs=outputs,
            )
        )
        return True

    return rule


def concat(node: gs.Node, context: Context) -> bool:
    """A Concat along an axis that A has, the other parts brought into the layout of A."""
    views = [context.views[t.name] for t in node.inputs if t.name in context.views]
    view = views[0]
    axis = view.axes[int(node.attrs["axis"]) % view.rank]
    if axis is None or not all(
        context.can_align(t, view) and _rank(t, context) == view.rank for t in node.inputs
    ):
        return False
    y = node.outputs[0]
    parts = [context.align(t, view) for t in node.inputs]
    result = context.emit("Concat", parts, y, source_shape(view, y.shape), axis=axis)
    context.views[y.name] = view.of(result)
    return True


def gather(node: gs.Node, context: Context) -> bool:
    """A Gather of a list of positions along an axis that A has."""
    view = _main_view(node, context)
    indices = node.inputs[1]
    if view is None or indices.name in context.views or _rank(indices, context) != 1:
        return False
    return along_axis(0)(node, context)


def slice_(node: gs.Node, context: Context) -> bool:
    """A Slice along constant axes that A has; starts, ends and steps may come from anywhere."""
    view = _main_view(node, context)
    if view is None or len(node.inputs) < 3:
        return False
    axes: list[int] | None = list(range(view.rank))
    if len(node.inputs) > 3 and node.inputs[3].name:
        axes = context.ints_of(node.inputs[3])
    else:
        starts = constant_shape(node.inputs[1])
        axes = None if starts is None else list(range(starts[0]))
    if axes is None:
        return False
    mapped = [view.axes[a % view.rank] for a in axes]
    if any(a is None for a in mapped) or any(t.name in context.views for t in node.inputs[1:]):
        return False
    y = node.outputs[0]
    target = context.shop.ints([a for a in mapped if a is not None])
    inputs = [view.source, node.inputs[1], node.inputs[2], target, *node.inputs[4:]]
    result = context.emit("Slice", inputs, y, source_shape(view, y.shape))
    context.views[y.name] = view.of(result)
    return True


def pad(node: gs.Node, context: Context) -> bool:
    """A Pad by constant amounts that leaves the axes alone that A does not have."""
    view = _main_view(node, context)
    if view is None or len(node.inputs) < 2:
        return False
    amounts = context.ints_of(node.inputs[1])
    axes: list[int] | None = list(range(view.rank))
    if len(node.inputs) > 3 and node.inputs[3].name:
        axes = context.ints_of(node.inputs[3])
    if amounts is None or axes is None or len(amounts) != 2 * len(axes):
        return False
    begin, end = [0] * view.source_rank, [0] * view.source_rank
    for index, b in enumerate(axes):
        a = view.axes[b % view.rank]
        pair = amounts[index], amounts[len(axes) + index]
        if a is None:
            if pair != (0, 0):
                return False
        else:
            begin[a], end[a] = pair
    y = node.outputs[0]
    inputs = [view.source, context.shop.ints([*begin, *end]), *node.inputs[2:3]]
    result = context.emit("Pad", inputs, y, source_shape(view, y.shape), **node.attrs)
    context.views[y.name] = view.of(result)
    return True


def resize(node: gs.Node, context: Context) -> bool:
    """A Resize by constant scales or sizes; axes that A does not have keep their size."""
    view = _main_view(node, context)
    if view is None or node.attrs.get("axes") or len(node.inputs) < 3:
        return False
    if context.surgery.opset < 13:  # There the region of interest may not be left out.
        return False
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    inputs: list[gs.Tensor] = [view.source, gs.Variable.empty()]
    for position in range(2, len(node.inputs)):
        tensor = node.inputs[position]
        if not tensor.name:
            inputs.append(tensor)
            continue
        values = constant_values(tensor, context.weights)
        if values is None or values.size not in (0, view.rank):
            return False
        if values.size:
            if any(values[b] != 1 for b in view.added):
                return False
            values = values[[view.axis_of(a) for a in range(view.source_rank)]]
        inputs.append(context.shop.array(values, "resize"))
    y = node.outputs[0]
    result = context.emit("Resize", inputs, y, source_shape(view, y.shape), **node.attrs)
    context.views[y.name] = view.of(result)
    return True


def expand(node: gs.Node, context: Context) -> bool:
    """An Expand to a constant shape of the same rank."""
    view = _main_view(node, context)
    shape = context.ints_of(node.inputs[1])
    if view is None or shape is None or len(shape) > view.rank:
        return False
    full = [1] * (view.rank - len(shape)) + shape
    if any(full[b] != 1 for b in view.added):
        return False
    target = context.shop.ints([full[view.axis_of(a)] for a in range(view.source_rank)])
    y = node.outputs[0]
    result = context.emit("Expand", [view.source, target], y, source_shape(view, y.shape))
    context.views[y.name] = view.of(result)
    return True


def shape(node: gs.Node, context: Context) -> bool:
    """The shape of B: that of A, its entries in the order of B, and 1 for the axes added."""
    view = _main_view(node, context)
    if view is None:
        return False
    start, end = int(node.attrs.get("start", 0)), int(node.attrs.get("end", view.rank))
    wanted = view.axes[start:end]
    y = node.outputs[0]
    sizes = context.emit("Shape", [view.source], y, [view.source_rank])
    if any(a is None for a in wanted):
        sizes = context.emit("Concat", [sizes, context.shop.ints([1])], y, None, axis=0)
    order = [view.source_rank if a is None else a for a in wanted]
    result = context.emit("Gather", [sizes, context.shop.ints(order)], y, [len(order)], axis=0)
    context.views[y.name] = View(result, (0,))
    return True


def _rank(tensor: gs.Tensor, context: Context) -> int | None:
    view = context.views.get(tensor.name)
    if view is not None:
        return view.rank
    dims = constant_shape(tensor) if is_constant(tensor) else tensor.shape
    return None if dims is None else len(dims)


SINCE_13 = ("Softmax", "LogSoftmax", "Hardmax")
"""Before opset 13 these flatten all axes behind theirs."""

UNARY = (
    *("Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
    *("Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
)
ELEMENTWISE = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
    *("Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"),
)
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

RULES: dict[str, Rule] = {
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Reshape": reshape,
    "Concat": concat,
    "Expand": expand,
    "Gather": gather,
    "Pad": pad,
    "Resize": resize,
    "Shape": shape,
    "Slice": slice_,
    "Split": along_axis(0),
    "Softmax": along_axis(-1),
    "LogSoftmax": along_axis(-1),
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(REDUCTIONS, reduce),
}
