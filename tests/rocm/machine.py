"""A machine that looks to onnxruntime as if it had an AMD GPU.

The released onnxruntime package is installed into a virtual environment of its own, and the ROCm
libraries that it needs are stand-ins (see build.py). What its real partitioner then places is what
it places on an AMD machine. Kernels do nothing, so this says nothing about numbers or speed.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.rocm.build import build

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).with_name("inside.py")


class NotInstalledError(Exception):
    """The package cannot be installed here: offline, or no wheel for this platform."""


@dataclass(frozen=True)
class Machine:
    """A virtual environment with one onnxruntime package, and stand-ins for a GPU's libraries.

    Attributes:
        runs: Whether the stand-ins go as far as a run: MIGraphX asks its compiler for the shapes
            of the results, which these have not.
    """

    python: Path
    standins: Path
    provider: str
    runs: bool

    def ask(self, request: dict[str, Any], *, libraries: bool = True) -> Any:
        """Have inside.py answer a request; `libraries` False takes the stand-ins away."""
        done = self.run([str(INSIDE)], json.dumps(request), libraries)
        if done.returncode:
            raise AssertionError(done.stderr)
        return json.loads(done.stdout)

    def run(
        self, arguments: list[str], text: str = "", libraries: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("LD_LIBRARY_PATH", None)
        if libraries:
            environment["LD_LIBRARY_PATH"] = str(self.standins)
        return subprocess.run(
            [str(self.python), *arguments],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            timeout=PATIENCE,
        )


def make_machine(requirement: str, library: str, provider: str, folder: Path) -> Machine:
    """Install `requirement` and build stand-ins for what its provider `library` needs.

    What `folder` already holds from an earlier run is used again.

    Raises:
        NotInstalledError: there is no wheel for this platform, or no way to fetch it.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotInstalledError(f"{requirement} has wheels for Linux on x86-64 only")
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    complete = folder / "complete"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Tests of another file may want the same machine.
        if not complete.exists():
            _install(requirement, folder, site)
            standins = folder / "standins"
            standins.mkdir(exist_ok=True)
            build(site / "onnxruntime" / "capi" / library, standins)
            complete.touch()
        # All else that the package imports is taken from the environment that runs the tests.
        names = ("site-packages", "dist-packages")
        others = [path for path in sys.path if Path(path).name in names]
        (site / "others.pth").write_text("\n".join(others) + "\n")
    runs = provider == "ROCMExecutionProvider"
    return Machine(folder / "bin" / "python", folder / "standins", provider, runs)


def _install(requirement: str, folder: Path, site: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    done = subprocess.run(
        [*pip, "--target", str(site), requirement], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise NotInstalledError(f"{requirement} cannot be installed: {last}")
