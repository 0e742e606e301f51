"""Start and stop of a server: its listeners, and the order in which it goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from converter.errors import UserError
from converter.serving.access import Access
from converter.serving.front import front
from converter.serving.grpc import grpc_server
from converter.serving.server import Server

log = logging.getLogger("converter.serving")

GRACE = 600.0
"""Seconds in which what was taken is finished, once the server is told to stop."""


@dataclass(frozen=True)
class Addresses:
    """Where a server listens; port 0 is any free one, None listens not at all."""

    host: str = "127.0.0.1"
    http_port: int | None = 8000
    grpc_port: int | None = 8001


@dataclass(frozen=True)
class Certificate:
    """For TLS: a certificate chain and its private key, both in PEM files."""

    chain: Path
    key: Path


class Serving:
    """A server with its listeners.

    Attributes:
        http_port, grpc_port: Those in use, once it has started.
    """

    def __init__(
        self,
        server: Server,
        addresses: Addresses,
        access: Access,
        certificate: Certificate | None = None,
        grace: float = GRACE,
    ) -> None:
        self.server = server
        self.http_port = addresses.http_port
        self.grpc_port = addresses.grpc_port
        self._addresses = addresses
        self._access = access
        self._certificate = certificate
        self._grace = grace
        self._stop = asyncio.Event()
        self._http: uvicorn.Server | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: Any = None

    async def start(self) -> None:
        """Listen; raises `UserError` where a port is taken, or the certificate does not load."""
        try:
            await self._start_http()
            await self._start_grpc()
        except BaseException:
            await self._close_listeners(0)
            raise

    def stop(self) -> None:
        """Ask the server to stop; to be called in its loop's thread."""
        self._stop.set()

    async def until_stopped(self) -> bool:
        """Wait for `stop`, then finish what was taken and close.

        Returns whether all of it was finished within the grace time. What was not is answered with
        503; a graph that runs then does so to its end, and so may its thread outlast this.
        """
        await self._stop.wait()
        finished = True
        try:
            await asyncio.wait_for(self.server.close(), self._grace)
        except asyncio.TimeoutError:
            finished = False
            log.warning("the grace time is over", extra={"unfinished": self.server.give_up()})
        await self._close_listeners(5.0)
        return finished

    async def _start_http(self) -> None:
        if self.http_port is None:
            return
        listener = listen(self._addresses.host, self.http_port)
        self.http_port = listener.getsockname()[1]
        certificate = self._certificate
        config = uvicorn.Config(
            front(self.server, self._access),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            ssl_certfile=str(certificate.chain) if certificate else None,
            ssl_keyfile=str(certificate.key) if certificate else None,
        )
        try:
            config.load()
        except OSError as error:
            listener.close()
            raise UserError(f"the certificate or its key does not load: {error}.") from error
        self._http = _Http(config)
        self._http_task = asyncio.create_task(self._http.serve(sockets=[listener]))
        while not self._http.started and not self._http_task.done():
            await asyncio.sleep(0.01)

    async def _start_grpc(self) -> None:
        if self.grpc_port is None:
            return
        chain_and_key = None
        if self._certificate:
            chain_and_key = self._certificate.chain.read_bytes(), self._certificate.key.read_bytes()
        self._grpc, self.grpc_port = grpc_server(
            self.server, self._addresses.host, self.grpc_port, self._access, chain_and_key
        )
        await self._grpc.start()

    async def _close_listeners(self, grace: float) -> None:
        if self._grpc is not None:
            await self._grpc.stop(grace)
        if self._http is not None and self._http_task is not None:
            self._http.should_exit = True
            await self._http_task


class _Http(uvicorn.Server):
    """Leaves the signals to the command, which knows in which order things stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; raises `UserError` where it is taken or not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}.") from error
    listener.set_inheritable(True)
    return listener
