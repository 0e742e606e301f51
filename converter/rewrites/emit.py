"""Makes the nodes of a replacement subgraph, named after the Conv they replace.

Only operators whose form has not changed since opset 11 are used, Squeeze and Unsqueeze excepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Array, Workshop
from converter.conv3d import ConstantWeight, Conv3D, RuntimeWeight

END = np.iinfo(np.int64).max
"""As the end of a Slice: to the last element, whatever the size."""


class Emitter:
    """Collects the nodes that will stand where a Conv stood."""

    def __init__(self, conv: Conv3D, workshop: Workshop, tiles: tuple[int, ...] = ()) -> None:
        """`tiles` are the sizes of Winograd's tiles that may be used; empty for any."""
        self.conv = conv
        self.shop = workshop
        self.tiles = tiles
        self.nodes: list[gs.Node] = []
        self._opset = workshop.surgery.opset

    def node(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        part: str,
        output: gs.Tensor | None = None,
        **attributes: Any,
    ) -> gs.Tensor:
        """Add a node named after the Conv and `part`; return its output."""
        name = self.shop.surgery.unique_name(f"{self.conv.name}/{part}")
        if output is None:
            output = gs.Variable(self.shop.surgery.unique_name(f"{self.conv.y.name}/{part}"))
        self.nodes.append(gs.Node(op, name, attributes, inputs=list(inputs), outputs=[output]))
        return output

    def transpose(
        self, x: gs.Tensor, perm: Sequence[int], part: str, output: gs.Tensor | None = None
    ) -> gs.Tensor:
        """Permute the axes."""
        return self.node("Transpose", [x], part, output, perm=list(perm))

    def reshape(
        self,
        x: gs.Tensor,
        shape: Sequence[int] | gs.Tensor,
        part: str,
        output: gs.Tensor | None = None,
    ) -> gs.Tensor:
        """Reshape; 0 copies the input's dimension at that place, one -1 is inferred."""
        target = shape if isinstance(shape, gs.Tensor) else self.shop.ints(shape)
        return self.node("Reshape", [x, target], part, output)

    def squeeze(self, x: gs.Tensor, axis: int, part: str) -> gs.Tensor:
        """Drop an axis of size 1."""
        return self._axes_op("Squeeze", x, axis, part, None)

    def unsqueeze(
        self, x: gs.Tensor, axis: int, part: str, output: gs.Tensor | None = None
    ) -> gs.Tensor:
        """Insert an axis of size 1."""
        return self._axes_op("Unsqueeze", x, axis, part, output)

    def _axes_op(
        self, op: str, x: gs.Tensor, axis: int, part: str, output: gs.Tensor | None
    ) -> gs.Tensor:
        if self._opset < 13:
            return self.node(op, [x], part, output, axes=[axis])
        return self.node(op, [x, self.shop.ints([axis])], part, output)

    def slice(
        self, x: gs.Tensor, axis: int, start: int, end: int, part: str, step: int = 1
    ) -> gs.Tensor:
        """Elements start, start + step, ... before end (negative: from the end) of one axis."""
        ints = self.shop.ints
        return self.node("Slice", [x, ints([start]), ints([end]), ints([axis]), ints([step])], part)

    def concat(self, parts: Sequence[gs.Tensor], axis: int, part: str) -> gs.Tensor:
        """Join along an axis; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        return self.node("Concat", parts, part, axis=axis)

    def dims(self, x: gs.Tensor, start: int, end: int, part: str) -> gs.Tensor:
        """The sizes of axes start to end (exclusive) at run time, as a 1-D int64 tensor."""
        shape = self.node("Shape", [x], f"{part}_shape")
        return self.slice(shape, 0, start, end, part)

    def weight(
        self, form: str, shape: Sequence[int | None], relay: Callable[[Array], Array]
    ) -> gs.Tensor:
        """The relaid weights of a Conv whose weights are constant, its chain replayed on them."""
        source = self.conv.weight
        assert isinstance(source, ConstantWeight)
        assert all(d is not None for d in shape)
        tensor = self.shop.derived(source.root, form, [d for d in shape if d is not None], relay)
        for link in source.chain:
            attributes = dict(link.attrs)
            if attributes.get("axis", 0) < 0:  # Channel axis 0, counted from the end of rank 5.
                attributes["axis"] = 0
            tensor = self.node(
                link.op, [tensor, *link.inputs[1:]], f"{form}_{link.op.lower()}", **attributes
            )
        return tensor

    def runtime_weight(self) -> gs.Tensor:
        """The weights of a Conv that computes them at run time."""
        assert isinstance(self.conv.weight, RuntimeWeight)
        return self.conv.weight.tensor
