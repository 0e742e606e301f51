"""What tests on Ray share."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

TWO_CORES = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
"""For the environment of a command: Ray's machine is the same on one of 1 core, or of 100."""


def need_ray() -> None:
    """To be called by a module whose tests need Ray; with CI set they fail without it."""
    if find_spec("ray") is None:
        missing = "Ray is not installed: pip install 'convert-vae[ray]'"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing, allow_module_level=True)


@contextmanager
def only_one() -> Iterator[None]:
    """Of all processes of these tests one is inside: Ray gives its own 30 seconds to start."""
    with (Path(tempfile.gettempdir()) / "convert-vae-ray-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def running(pids: Iterable[int]) -> list[int]:
    """Those that have not ended; one whose parent has not yet asked how it ended has."""
    return [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]


def children(root: int, what: str) -> list[int]:
    """Processes of `what` that descend from the process `root`."""
    parents: dict[int, int] = {}
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            parents[int(folder.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if what in line:
            found.append(int(folder.name))

    def descends(pid: int) -> bool:
        while pid > 1:
            if pid == root:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid in found if descends(pid)]
