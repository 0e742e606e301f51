"""Headless Chromium by its DevTools protocol, over a websocket."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import aiohttp

from tests.chromium import FLAGS, chromium


class Tab:
    """A page that is open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **parameters: object) -> dict:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=20)
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
        for _ in range(150):
            if found := await self.value(expression):
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(
            f"never true: {expression}\n{await self.value('document.body.innerText')}"
        )

    async def choose_file(self, selector: str, path: Path) -> None:
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = await self.call("DOM.querySelector", nodeId=root, selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)])


async def with_page(address: str, folder: Path, use) -> None:
    """Open `address` and await `use(tab)`."""
    profile = folder / "profile"
    process = subprocess.Popen(
        [chromium(), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as ws:
                await use(Tab(ws))
    finally:
        process.terminate()
        process.wait(20)


async def _port(file: Path) -> str:
    for _ in range(200):
        if file.is_file() and file.read_text():
            return file.read_text().splitlines()[0]
        await asyncio.sleep(0.1)
    raise AssertionError("Chromium did not start")
