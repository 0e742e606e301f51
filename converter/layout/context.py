"""The graph under construction while views sink, and how tensors come into a view's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Workshop, constant_shape, constant_values, is_constant
from converter.layout.view import View
from converter.surgeon import Surgery
from converter.weights import WeightTable

Dims = Sequence[int | str | None]


@dataclass
class Context:
    """The graph under construction, and which tensors are views by now."""

    surgery: Surgery
    weights: WeightTable
    shop: Workshop
    views: dict[str, View] = field(default_factory=dict)
    nodes: list[gs.Node] = field(default_factory=list)

    def emit(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        like: gs.Tensor,
        shape: Dims | None,
        **attributes: Any,
    ) -> gs.Tensor:
        """Add a node that makes a new tensor, named after the tensor that it stands for."""
        name = self.surgery.unique_name(f"{like.name}/frames")
        output = gs.Variable(name, like.dtype, None if shape is None else list(shape))
        self.nodes.append(gs.Node(op, name, attributes, inputs=list(inputs), outputs=[output]))
        return output

    def materialize(self, view: View, tensor: gs.Tensor) -> None:
        """Make a view: add the axes of size 1 to its source in front, then order all axes.

        In this order onnxruntime copies once; behind the Transpose, an Unsqueeze that makes a graph
        output is a copy of its own.
        """
        ordered = view.order != tuple(range(view.source_rank))
        fronts = range(len(view.added)) if ordered else view.added
        steps: list[tuple[str, list[gs.Tensor], dict[str, Any]]] = []
        if view.added:
            if self.surgery.opset < 13:
                steps.append(("Unsqueeze", [], {"axes": list(fronts)}))
            else:
                steps.append(("Unsqueeze", [self.shop.ints(list(fronts))], {}))
        if ordered:
            front = iter(fronts)
            perm = [next(front) if a is None else len(view.added) + a for a in view.axes]
            steps.append(("Transpose", [], {"perm": perm}))
        if not steps:
            steps.append(("Identity", [], {}))
        current = view.source
        for index, (op, more, attributes) in enumerate(steps):
            last = index == len(steps) - 1
            name = self.surgery.unique_name(f"{tensor.name}/{op.lower()}")
            output = tensor if last else gs.Variable(name, tensor.dtype)
            self.nodes.append(
                gs.Node(op, name, attributes, inputs=[current, *more], outputs=[output])
            )
            current = output

    def ints_of(self, tensor: gs.Tensor | None) -> list[int] | None:
        """The values of a constant integer tensor, else None."""
        if tensor is None or not tensor.name:
            return None
        values = constant_values(tensor, self.weights)
        return None if values is None else [int(v) for v in values.ravel()]

    def can_align(self, tensor: gs.Tensor, view: View) -> bool:
        """Whether `align` can bring `tensor` into the layout of the view's source."""
        other = self.views.get(tensor.name)
        if other is not None and other.axes == view.axes:
            return True
        shape = constant_shape(tensor) if is_constant(tensor) else tensor.shape
        if shape is None or len(shape) > view.rank:
            return False
        if len(shape) < view.rank and not is_constant(tensor):
            return not shape
        full = [1] * (view.rank - len(shape)) + list(shape)
        return all(full[b] == 1 for b in view.added)

    def align(self, tensor: gs.Tensor, view: View) -> gs.Tensor:
        """`tensor`, which broadcasts against B, as it broadcasts against the source of the view."""
        other = self.views.get(tensor.name)
        if other is not None and other.axes == view.axes:
            return other.source
        if is_constant(tensor):
            return self._aligned_constant(tensor, view)
        if not tensor.shape:
            return tensor
        current = other if other is not None else View(tensor, tuple(range(view.rank)))
        wanted = [current.axes[view.axis_of(a)] for a in range(view.source_rank)]
        return self._reordered(current, wanted, tensor, view)

    def _aligned_constant(self, tensor: gs.Tensor, view: View) -> gs.Tensor:
        shape = constant_shape(tensor)
        assert shape is not None
        full = (1,) * (view.rank - len(shape)) + shape
        if all(d == 1 for d in full):
            if len(shape) <= view.source_rank:
                return tensor
            return self.shop.derived(tensor, "scalar", (), lambda values: values.reshape(()))
        order = [view.axis_of(a) for a in range(view.source_rank)]
        target = tuple(full[b] for b in order)
        kept = tuple(d for b, d in enumerate(full) if view.axes[b] is not None)

        def derive(values: Any) -> Any:
            # Without the added axes (of size 1) the axes are those of A, in the order of B.
            return values.reshape(kept).transpose(np.argsort(view.order))

        form = "frames_" + "_".join(map(str, (*full, *order)))
        return self.shop.derived(tensor, form, target, derive)

    def _reordered(
        self, current: View, wanted: Sequence[int | None], like: gs.Tensor, view: View
    ) -> gs.Tensor:
        """Bring the source of `current` into the order `wanted` (None: an axis of size 1)."""
        source = current.source
        dropped = [a for a in range(current.source_rank) if a not in wanted]
        dims = list(like.shape)
        shape = [dims[view.axis_of(a)] for a in range(view.source_rank)]
        if dropped:
            axes = self.shop.ints(dropped)
            if self.surgery.opset < 13:
                source = self.emit("Squeeze", [source], like, None, axes=dropped)
            else:
                source = self.emit("Squeeze", [source, axes], like, None)
        left = [a for a in range(current.source_rank) if a not in dropped]
        perm = [left.index(a) for a in wanted if a is not None]
        if perm != list(range(len(perm))):
            source = self.emit("Transpose", [source], like, None, perm=perm)
        added = [i for i, a in enumerate(wanted) if a is None]
        if added:
            if self.surgery.opset < 13:
                source = self.emit("Unsqueeze", [source], like, shape, axes=added)
            else:
                source = self.emit("Unsqueeze", [source, self.shop.ints(added)], like, shape)
        return source
