"""How much memory this process holds, and how much it has held at most."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    (CGROUP / "memory.max", CGROUP / "memory.current"),
    (CGROUP / "memory/memory.limit_in_bytes", CGROUP / "memory/memory.usage_in_bytes"),
)
FORGET_PEAK = "5"
"""Written to `CLEAR_REFS`, it sets the peak to what is resident now (proc_pid_clear_refs(5))."""


def resident_bytes() -> int | None:
    """The resident set now, None where the system does not tell."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Let `peak_bytes` begin anew; where the system cannot, it goes on counting from the start."""
    with suppress(OSError):
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text(FORGET_PEAK)


def peak_bytes() -> int | None:
    """The largest resident set of this process so far, None where the system does not tell.

    On Linux `ru_maxrss` is not it: that survives exec, and so begins at what the parent held.
    """
    peak = _status("VmHWM")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int | None:
    if not STATUS.is_file():
        return None
    found = re.search(rf"^{key}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def available_bytes() -> int | None:
    """What this process may still take without swapping; None where the system does not tell.

    The least of what the system has (MemAvailable of proc_meminfo(5)) and of what the control group
    leaves (memory.max and memory.current of version 2, the limit and usage of version 1).
    """
    if not MEMINFO.is_file():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
    left = [int(found[1]) * 1024] if found else []
    for limit, usage in CGROUP_FILES:
        with suppress(OSError, ValueError):  # absent, or "max"
            left.append(int(limit.read_text()) - int(usage.read_text()))
    return max(0, min(left)) if left else None
