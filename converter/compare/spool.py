"""Arrays on disk, so that the outputs of many runs need no memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converter.compare.feeds import Array


class Spool(tempfile.TemporaryDirectory[str]):
    """A temporary folder of arrays; they end with it."""

    _count = 0

    def put(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The same arrays, read from the disk as they are used."""
        return {name: self._one(array) for name, array in arrays.items()}

    def _one(self, array: Array) -> Array:
        if not array.size or not array.ndim:  # neither can be mapped
            return array
        path = Path(self.name) / str(self._count)
        self._count += 1
        np.ascontiguousarray(array).tofile(path)
        return np.memmap(path, array.dtype, "r", shape=array.shape)
