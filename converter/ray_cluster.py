"""A Ray cluster for as long as it is needed: the one that runs, or one of this machine alone.

Ray is imported only here and where it is used, behind `ray_running`: it reads its settings from
the environment when it is imported.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from converter.errors import UserError

ADDRESS = "RAY_ADDRESS"
"""Ray's variable that names a running cluster."""

LOOPBACK = "127.0.0.1"

ON_HOST = ("cpu", "openvino")
"""Execution providers that need no GPU."""

LONGEST_PLACE = 28
"""Characters of the folder of temporary files: Ray adds 79."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
"""Unless the user has set them: no report to Ray's makers, logs that are whole and plain, and a
proxy that a busy machine has not started in 15 seconds is not killed."""


@dataclass(frozen=True)
class RayOptions:
    """Of a cluster of this machine alone.

    Attributes:
        dashboard: Whether Ray's dashboard runs, on 127.0.0.1:8265.
    """

    dashboard: bool = False


@dataclass(frozen=True)
class Replicas:
    """How many processes work, at least and at most; Ray adds and removes them by the load."""

    least: int = 1
    most: int = 1

    def __str__(self) -> str:
        if self.least == self.most:
            return "1 replica" if self.least == 1 else f"{self.least} replicas"
        return f"{self.least} to {self.most} replicas"


@contextmanager
def ray_running(options: RayOptions) -> Iterator[bool]:
    """A cluster inside the block: that of `RAY_ADDRESS`, or a new one, which ends with the block.

    A new one listens on 127.0.0.1, asks everybody for a token of its own, and keeps its files in a
    temporary folder, which is gone afterwards. Only a replica of Ray Serve opens a port on all
    addresses, behind that token. Yields whether it is a new one.

    Raises:
        UserError: Ray is not installed, or does not start.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    own = ADDRESS not in os.environ
    if own:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    ray = _ray()
    folder = _short_folder() if own else None
    try:
        _start(ray, folder, options)
        yield own
    finally:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in handlers:  # a second Ctrl-C would leave processes behind
            signal.signal(number, signal.SIG_IGN)
        with suppress(Exception):
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _short_folder() -> str:
    """A new folder, whose name leaves room for Ray's sockets: Unix allows 107 bytes in all."""
    place = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="ray-", dir=place if len(place) <= LONGEST_PLACE else "/tmp")


def resources(replicas: Replicas, providers: Sequence[str]) -> dict[str, int]:
    """What each replica takes: a CPU, and a GPU where there are any and a provider may want it.

    Raises:
        UserError: there is no room for the least number of replicas.
    """
    has = _ray().cluster_resources()
    wants = any(provider not in ON_HOST for provider in providers)
    kind = "GPU" if wants and has.get("GPU", 0) >= 1 else "CPU"
    room = int(has.get(kind, 0))
    if replicas.least > room:
        raise UserError(
            f"--replicas asks for {replicas.least}, each on a {kind} of its own, but the cluster "
            f"has {room}."
        )
    return {"num_cpus": 1, "num_gpus": int(kind == "GPU")}


def _start(ray: Any, folder: str | None, options: RayOptions) -> None:
    handler, place = signal.getsignal(signal.SIGTERM), os.environ.get("TMPDIR")
    try:
        if folder is None:
            ray.init(address=os.environ[ADDRESS], logging_level="WARNING")
        else:
            os.environ["TMPDIR"] = folder  # of Ray's processes, which leave some there
            ray.init(
                include_dashboard=options.dashboard,
                logging_level="WARNING",
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
            )
    except Exception as error:
        raise UserError(f"Ray does not start: {' '.join(str(error).split())}") from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets one that exits at once
        if place is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = place


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            f"--ray needs {error.name}; install it by pip install 'convert-vae[ray]'."
        ) from error
