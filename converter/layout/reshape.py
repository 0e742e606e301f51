"""How a Reshape of a view regroups the axes of the view's source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from converter.layout.view import View

Dim = int | str | None
Group = tuple[list[int], list[int]]
"""Axes before and after that hold the same elements: one to one, split, merged, or of size 1."""


@dataclass(frozen=True)
class Regrouped:
    """A Reshape carried over to the source.

    Attributes:
        target: Reshape target of the source; None where the source stays as it is.
        source_axes: For each axis of the new source, the axis of the Reshape's output that it is.
        axes: The output as a view of the new source.
    """

    target: list[int] | None
    source_axes: tuple[int, ...]
    axes: tuple[int | None, ...]


def regroup(view: View, before: Sequence[Dim], after: Sequence[Dim]) -> Regrouped | None:
    """Carry a Reshape from `before` to `after` of B over to the source A, if A's axes allow it.

    An axis may split; axes may merge that are neighbours in A, in A's order; axes of size 1 come
    and go. Symbolic sizes must go over unchanged. None where that is not what the Reshape does.
    """
    groups = list(_groups(before, after))
    if sorted(b for group in groups for b in group[0]) != list(range(len(before))):
        return None
    pieces: dict[int, list[int]] = {}
    unchanged = True
    for old, new in groups:
        axes = [view.axes[b] for b in old]
        if not old or (axes == [None] and len(new) <= 1):
            continue
        present = [a for a in axes if a is not None]
        if len(present) != len(axes) or (len(old) > 1 and len(new) != 1):
            return None
        if present != list(range(present[0], present[0] + len(present))):
            return None
        unchanged &= len(old) == len(new) == 1
        pieces[present[0]] = new
        pieces.update((a, []) for a in present[1:])
    order = tuple(j for a in range(view.source_rank) for j in pieces[a])
    axes_after = tuple(order.index(j) if j in order else None for j in range(len(after)))
    if unchanged:
        return Regrouped(None, order, axes_after)
    sizes = [after[j] for j in order]
    if sum(not isinstance(d, int) for d in sizes) > 1:
        return None
    return Regrouped([d if isinstance(d, int) else -1 for d in sizes], order, axes_after)


def _groups(before: Sequence[Dim], after: Sequence[Dim]) -> Iterator[Group]:
    """Pair up the axes from left to right; stops short where the sizes do not tell."""
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and j < len(after) and before[i] == after[j] and before[i] is not None:
            yield [i], [j]
            i, j = i + 1, j + 1
        elif i < len(before) and before[i] == 1:
            yield [i], []
            i += 1
        elif j < len(after) and after[j] == 1:
            yield [], [j]
            j += 1
        else:
            old, new = _match_products(before, after, i, j)
            if not old:
                return
            yield old, new
            i, j = old[-1] + 1, new[-1] + 1


def _match_products(
    before: Sequence[Dim], after: Sequence[Dim], i: int, j: int
) -> tuple[list[int], list[int]]:
    """The shortest runs of static sizes from i and j with equal products; empty if none."""
    old, new = [i], [j]
    while True:
        left = _product(before, old)
        right = _product(after, new)
        if left is None or right is None:
            return [], []
        if left == right:
            return old, new
        if left < right:
            old.append(old[-1] + 1)
        else:
            new.append(new[-1] + 1)


def _product(shape: Sequence[Dim], axes: Sequence[int]) -> int | None:
    product = 1
    for axis in axes:
        dim = shape[axis] if axis < len(shape) else None
        if not isinstance(dim, int):
            return None
        product *= dim
    return product
