"""A server that runs on free ports, in this process, on a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from converter.serving.access import Access
from converter.serving.lifecycle import Addresses, Serving
from converter.serving.limits import Limits
from converter.serving.server import Server
from tests.patience import PATIENCE

_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}


@contextmanager
def running(models, limits=None, access=None, **options) -> Iterator[Serving]:
    """The server is up inside the block, and has stopped in good order behind it."""
    started = threading.Event()
    box = {}

    async def main() -> None:
        server = Server(models, limits or Limits())
        addresses = Addresses(http_port=0, grpc_port=0)
        serving = Serving(server, addresses, access or Access(), **options)
        box["serving"] = serving
        _LOOPS[id(serving)] = asyncio.get_running_loop()
        await serving.start()
        started.set()
        await serving.until_stopped()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield box["serving"]
    finally:
        stop(box["serving"])
        thread.join(PATIENCE)
        assert not thread.is_alive()


def stop(serving: Serving) -> None:
    """From another thread than that of the server."""
    loop = _LOOPS[id(serving)]
    if not loop.is_closed():
        loop.call_soon_threadsafe(serving.stop)
