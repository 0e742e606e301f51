"""Measured times of Conv3D signatures, kept in a JSON file that can be shared."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from converter.errors import UserError

CACHE_VERSION = 1


@dataclass(frozen=True)
class Bench:
    """Where times were measured; times of different benches are not compared.

    Attributes:
        provider: Execution provider id.
        runtime: onnxruntime's version.
        device: What computes, for a person to recognise.
        threads: Threads of one operator.
    """

    provider: str
    runtime: str
    device: str
    threads: int

    def key(self) -> str:
        """One line that names this bench in a cache."""
        return f"{self.provider} | onnxruntime {self.runtime} | {self.device} x{self.threads}"


class TuningCache:
    """Bench -> Conv3D signature -> strategy -> seconds, loaded from and saved to one file."""

    def __init__(self, path: Path) -> None:
        """Read `path` if it is there.

        Raises:
            UserError: it is there and is not a cache of this version.
        """
        self.path = path
        self._times: dict[str, dict[str, dict[str, float]]] = {}
        if not path.exists():
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["version"] != CACHE_VERSION:
                raise UserError(
                    f"the tuning cache {path} has version {data['version']}, "
                    f"not {CACHE_VERSION}; name another file."
                )
            self._times = {
                bench: {
                    signature: {strategy: float(s) for strategy, s in times.items()}
                    for signature, times in signatures.items()
                }
                for bench, signatures in data["seconds"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a tuning cache that convert-vae wrote.") from error

    def get(self, bench: Bench, signature: str) -> Mapping[str, float]:
        """Seconds by strategy; empty if this signature was not measured on this bench."""
        return self._times.get(bench.key(), {}).get(signature, {})

    def put(self, bench: Bench, signature: str, strategy: str, seconds: float) -> None:
        """Remember one measurement, and save the file, so that an interruption loses nothing."""
        times = self._times.setdefault(bench.key(), {}).setdefault(signature, {})
        times[strategy] = seconds
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": CACHE_VERSION, "seconds": self._times}, file, indent=1)
        os.replace(name, self.path)


def default_path() -> Path:
    """The cache in the user's own cache folder."""
    return user_cache_path("convert-vae") / "tuning.json"


def device_name(provider: str) -> str:
    """The processor's model for the CPU provider; else the GPU's name if the system tells it."""
    if provider == "CPUExecutionProvider":
        return _first_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or "cpu"
    names = sorted(Path("/sys/class/kfd/kfd/topology/nodes").glob("*/name"))
    found = [text for path in names if (text := path.read_text(encoding="utf-8").strip())]
    return found[-1] if found else "gpu"


def _first_field(path: Path, field: str) -> str | None:
    if not path.exists():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return None
