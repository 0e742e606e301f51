"""Feeds and outputs in files: .npy, .npz, .safetensors and .pt.

Several feeds share one file by prefixes: `NAME` is of the first, `feed1/NAME` of the second.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from converter import array_files
from converter.compare.feeds import Array
from converter.errors import UserError

_PREFIX = re.compile(r"feed(\d+)/(.+)", re.DOTALL)


def read_arrays(path: Path) -> list[dict[str, Array]]:
    """The named arrays of a file, one dictionary a feed; a nameless array is called "".

    Raises `UserError` if the file is missing, unreadable, of another kind, or holds no array.
    """
    return _by_feed(path, array_files.read_arrays(path))


def write_npz(path: Path, runs: Sequence[Mapping[str, Array]]) -> None:
    """Save every run's arrays in one .npz; bfloat16, which NumPy cannot name, as float32."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, arrays in enumerate(runs):
            for name, array in arrays.items():
                key = f"feed{number}/{name}" if number else name
                wide = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(wide), allow_pickle=False)


def _by_feed(path: Path, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    feeds: dict[int, dict[str, Array]] = {}
    for key, array in arrays.items():
        match = _PREFIX.fullmatch(key)
        number, name = (int(match[1]), match[2]) if match else (0, key)
        feeds.setdefault(number, {})[name] = array
    if sorted(feeds) != list(range(len(feeds))):
        raise UserError(f"{path} holds feeds {sorted(feeds)}, but they must count from 0.")
    return [feeds[number] for number in range(len(feeds))]
