import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from converter.heap import freed_at_once, return_freed_memory
from converter.memory import resident_bytes

BLOCKS, SIZE = 4096, 16384
SIZE_OF_A_LARGE_BLOCK = 2**24


glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has no such functions"
)


def kept_of_a_freed_block(size: int) -> int:
    """Resident bytes that stay when a block is freed that lies below one still in use."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    return_freed_memory()
    before = resident_bytes()
    block, above = libc.malloc(size), libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))
    kept = resident_bytes() - before
    libc.free(ctypes.c_void_p(above))
    return kept


def printed(code: str) -> list[int]:
    """The numbers that a new process prints, whose heap is not that of all tests before."""
    code = f"from tests import test_heap\n{code}"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@glibc
def test_large_blocks_are_freed_at_once_within_and_kept_outside():
    code = (
        "from converter.heap import freed_at_once\n"
        "kept, size = test_heap.kept_of_a_freed_block, test_heap.SIZE_OF_A_LARGE_BLOCK\n"
        "with freed_at_once():\n"
        "    print(kept(size))\n"
        "print(kept(size))\n"
        "try:\n"
        "    with freed_at_once():\n"
        "        raise KeyError\n"
        "except KeyError:\n"
        "    print(kept(size))\n"
    )
    within, after, after_an_error = printed(code)
    assert within < SIZE_OF_A_LARGE_BLOCK / 4
    assert after > SIZE_OF_A_LARGE_BLOCK / 2
    assert after_an_error > SIZE_OF_A_LARGE_BLOCK / 2


def returned_of_small_blocks() -> int:
    """Resident bytes that go when many freed blocks lie below one that is still in use."""
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
    returned = held - resident_bytes()
    libc.free(ctypes.c_void_p(kept))
    return returned


@glibc
def test_freed_memory_below_a_block_still_in_use_goes_back():
    (returned,) = printed("print(test_heap.returned_of_small_blocks())")
    assert returned > BLOCKS * SIZE / 2


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    return_freed_memory()
    with freed_at_once():
        pass
