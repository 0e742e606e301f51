"""Arrays in files, of which only the parts that are asked for are in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.compare.feeds import Array

PART = 1 << 16
"""Elements a part: half a megabyte in float64, which stays in a core's cache."""


@dataclass(frozen=True)
class StoredArray:
    """An array in C order from byte `offset` of a file on.

    Its parts are read as `kind`, in whichever byte order that is, and given as `dtype`.
    """

    path: Path
    offset: int
    kind: np.dtype[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> Array:
        """A copy of a part, by an index as NumPy takes it.

        The file is mapped for that long only: pages of a map that have been read count as memory of
        the process.
        """
        mapped = np.memmap(self.path, self.kind, "r", self.offset, self.shape)
        return np.array(mapped[index], self.dtype)

    def reshape(self, *shape: int) -> StoredArray:
        """The same elements in the same order; only to one axis, as `reshape(-1)` does."""
        assert shape == (-1,)
        return replace(self, shape=(self.size,))

    def astype(self, dtype: Any, copy: bool = True) -> StoredArray:
        """The same array, whose parts are given in another type; nothing is ever copied whole."""
        return replace(self, dtype=np.dtype(dtype))


AnyArray = Array | StoredArray


def parts(array: AnyArray, size: int = PART) -> Iterator[Array]:
    """The elements in C order, `size` at a time; only what is not contiguous is copied whole."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, size):
        yield flat[start : start + size]
