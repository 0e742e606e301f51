"""Give memory that was freed back to the system, where the allocator keeps it."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Let the C library's allocator return the pages it no longer uses; glibc only, else nothing.

    onnxruntime folds constants and relays weights when it makes a session. glibc keeps the blocks
    that this frees: as much again as the weights of a converted decoder.

    Source: malloc_trim(3).
    """
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl has none
        trim(0)
