"""Headless Chromium by its DevTools protocol, over a websocket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.request
from pathlib import Path

import aiohttp

from tests.chromium import FLAGS, LOG, chromium
from tests.patience import PATIENCE, until


class Tab:
    """A page that is open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **parameters: object) -> dict:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=PATIENCE)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, expression: str) -> object:
        made = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    async def until(self, expression: str) -> object:
        """Its value, once it is true; what it names may not be there yet."""
        expression = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        end = time.monotonic() + PATIENCE
        while not (found := await self.value(expression)):
            seen = await self.value("document.body?.innerText")
            assert time.monotonic() < end, f"never true: {expression}\n{seen}"
            await asyncio.sleep(0.1)
        return found

    async def choose_file(self, selector: str, path: Path) -> None:
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = await self.call("DOM.querySelector", nodeId=root, selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)])


async def with_page(address: str, folder: Path, use, *flags: str) -> str:
    """Open `address` and await `use(tab)`; returns what Chromium has logged, pages' errors too."""
    profile, log = folder / "profile", folder / "chromium.log"
    flags = (*FLAGS, *LOG, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}")
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [chromium(), *flags, address], stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        socket = await asyncio.to_thread(until, lambda: _page(profile / "DevToolsActivePort"))
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(socket, max_msg_size=0) as ws,
        ):
            await use(Tab(ws))
    finally:
        process.terminate()
        process.wait(PATIENCE)
    return log.read_text(errors="replace")


def _page(file: Path) -> str | None:
    """The address to drive the one page by, once Chromium says in `file` where it listens."""
    try:
        port = file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
            pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
        return pages[0]["webSocketDebuggerUrl"]
    except (OSError, IndexError):
        return None
