"""Arrays on disk, so that the outputs of many runs need no memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from converter.compare.feeds import Array
from converter.compare.stored_array import AnyArray, StoredArray, parts
from converter.errors import UserError


class Spool(tempfile.TemporaryDirectory[str]):
    """A temporary folder of arrays; they end with it."""

    _count = 0

    def put(self, arrays: Mapping[str, Array]) -> dict[str, AnyArray]:
        """The same arrays, read from the disk as they are used."""
        return {name: self._one(array) for name, array in arrays.items()}

    def write(self, blocks: Iterable[bytes]) -> Path:
        """A file of these bytes; raises `UserError` where the disk has no room for them."""
        path = Path(self.name) / str(self._count)
        self._count += 1
        try:
            with path.open("wb") as file:
                file.writelines(blocks)
        except OSError as error:
            raise UserError(
                f"the outputs cannot be kept in {path.parent}: {error.strerror}; name a folder "
                "with more room by the environment variable TMPDIR."
            ) from error
        return path

    def _one(self, array: Array) -> AnyArray:
        if not array.size or not array.ndim:  # neither can be mapped
            return array
        path = self.write(part.tobytes() for part in parts(np.asarray(array)))
        return StoredArray(path, 0, array.dtype, array.shape, array.dtype)
