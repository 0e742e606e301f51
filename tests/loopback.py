"""A network namespace with nothing but loopback: what listens on all addresses is not reached."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
HERE = Path("/proc/thread-self/ns/net")


@contextmanager
def loopback_only() -> Iterator[None]:
    """Inside the block this thread, what it starts, and sockets it opens are in such a namespace.

    It needs root, be it that of `unshare --user --map-root-user`. Where the kernel does not let it,
    a test fails with CI set, and is skipped otherwise.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open(HERE, os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            reason = (
                f"no network namespace ({errno.errorcode[ctypes.get_errno()]}); run the tests as "
                "root, or by `unshare --user --map-root-user`"
            )
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        try:
            _raise_loopback()
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        os.close(before)


def _raise_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        name, flags, rest = struct.unpack("16sH14s", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14s", name, flags | IFF_UP, rest))
