"""Feeds and outputs in files: .npy, .npz, .safetensors and .pt.

Several feeds share one file by prefixes: `NAME` is of the first, `feed1/NAME` of the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from converter import array_files
from converter.compare.feeds import Array
from converter.errors import UserError

T = TypeVar("T")

_PREFIX = re.compile(r"feed(\d+)/(.+)", re.DOTALL)


def read_arrays(path: Path) -> list[dict[str, Array]]:
    """The named arrays of a file, one dictionary a feed; a nameless array is called "".

    Raises `UserError` if the file is missing, unreadable, of another kind, or holds no array.
    """
    return by_feed(path, array_files.read_arrays(path))


def key_of(feed: int, name: str) -> str:
    """What an array of a feed is called in a file."""
    return f"feed{feed}/{name}" if feed else name


def by_feed(path: Path, arrays: Mapping[str, T]) -> list[dict[str, T]]:
    """The arrays of a file by feed; raises `UserError` where numbers of feeds are missing."""
    feeds: dict[int, dict[str, T]] = {}
    for key, array in arrays.items():
        match = _PREFIX.fullmatch(key)
        number, name = (int(match[1]), match[2]) if match else (0, key)
        feeds.setdefault(number, {})[name] = array
    if sorted(feeds) != list(range(len(feeds))):
        raise UserError(f"{path} holds feeds {sorted(feeds)}, but they must count from 0.")
    return [feeds[number] for number in range(len(feeds))]
