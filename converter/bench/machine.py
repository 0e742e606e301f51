"""What a measurement was made on, so that another can be held against it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from converter.version import VERSION

CPU_INFO = Path("/proc/cpuinfo")
VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
"""Processor flags that decide how fast convolutions are."""

PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "openvino",
    "torch",
    "diffusers",
)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, load, versions of what is installed; what is not known is None."""
    info = CPU_INFO.read_text() if CPU_INFO.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cpus": usable_cpus(),
        "vectors": [flag for flag in VECTOR_FLAGS if flag in known],
        "memory_bytes": _memory_bytes(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version(), "convert-vae": VERSION}
        | _versions(PACKAGES),
    }


def usable_cpus() -> int:
    """How many logical processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
