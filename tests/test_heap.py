import ctypes
import platform

import pytest

from converter.heap import return_freed_memory
from converter.memory import resident_bytes

BLOCKS, SIZE = 4096, 16384


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has no malloc_trim"
)
def test_freed_memory_below_a_block_still_in_use_goes_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(SIZE) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    *freed, kept = blocks
    for block in freed:
        libc.free(ctypes.c_void_p(block))
    held = resident_bytes()
    return_freed_memory()
    libc.free(ctypes.c_void_p(kept))
    assert held - resident_bytes() > BLOCKS * SIZE / 2


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    return_freed_memory()
