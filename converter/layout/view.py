"""A tensor as a view of another: the same elements, axes in another order, axes of size 1 added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class View:
    """A tensor B that equals `source` A up to the order of axes and axes of size 1.

    Attributes:
        source: The tensor A that exists.
        axes: For each axis of B the axis of A that it is, or None for an axis of size 1 that A
            does not have. Every axis of A occurs exactly once.
    """

    source: gs.Tensor
    axes: tuple[int | None, ...]

    @property
    def rank(self) -> int:
        """Rank of B."""
        return len(self.axes)

    @property
    def source_rank(self) -> int:
        """Rank of A."""
        return sum(a is not None for a in self.axes)

    @property
    def is_identity(self) -> bool:
        """Whether B is A."""
        return self.axes == tuple(range(len(self.axes)))

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of A in the order in which B has them."""
        return tuple(a for a in self.axes if a is not None)

    @property
    def added(self) -> tuple[int, ...]:
        """The axes of B, of size 1, that A does not have."""
        return tuple(b for b, a in enumerate(self.axes) if a is None)

    def axis_of(self, source_axis: int) -> int:
        """The axis of B that an axis of A is."""
        return self.axes.index(source_axis)

    def of(self, source: gs.Tensor) -> View:
        """The same view of another tensor."""
        return View(source, self.axes)

    def transpose(self, perm: Sequence[int]) -> View:
        """The view after a Transpose of B."""
        return View(self.source, tuple(self.axes[p] for p in perm))

    def unsqueeze(self, axes: Sequence[int]) -> View:
        """The view after an Unsqueeze of B; `axes` count in the result, none negative."""
        result = list(self.axes)
        for axis in sorted(axes):
            result.insert(axis, None)
        return View(self.source, tuple(result))

    def squeeze(self, axes: Sequence[int]) -> View | None:
        """The view after a Squeeze of B; None if an axis is one that A has."""
        if any(self.axes[axis] is not None for axis in axes):
            return None
        return View(self.source, tuple(a for b, a in enumerate(self.axes) if b not in axes))
