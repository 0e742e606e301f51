"""Give memory that was freed back to the system, where the allocator keeps it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""

LARGE = 2**20
"""Bytes from which a block is mapped by itself while `freed_at_once` holds."""

USUAL = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
"""What glibc's own rule for these comes to in a process that has freed blocks of 32 MB."""


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Within, large blocks go back to the system when they are freed; glibc only, else nothing.

    onnxruntime folds constants and relays weights when it makes a session, one copy after the
    other. Left to itself, glibc keeps the copies that are no longer needed until all are made.

    Source: mallopt(3).
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        for parameter, value in USUAL.items() if mallopt is not None else ():
            mallopt(parameter, value)


def return_freed_memory() -> None:
    """Let the C library's allocator return the pages it no longer uses; glibc only, else nothing.

    Source: malloc_trim(3).
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    """A function of glibc; None elsewhere (musl has neither)."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
