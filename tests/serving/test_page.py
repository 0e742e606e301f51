"""The page at `/`, in a browser."""

import asyncio
import base64
import os
from pathlib import Path

import numpy as np

from tests import stream_graphs
from tests.browser import with_page
from tests.chromium import chromium
from tests.serving.asking import ask


def test_it_shows_the_models_and_plays_a_decoded_latent(served, tmp_path):
    chromium()
    np.save(tmp_path / "z.npy", stream_graphs.latent(5))
    np.save(tmp_path / "wrong.npy", stream_graphs.latent(5)[0])

    async def use(tab):
        await tab.until("document.getElementById('model').options.length == 3")
        text = await tab.value("document.body.innerText")
        for part in (
            "ready",
            "wan",
            "1 x 8 x any x 4 x 5",
            "CPUExecutionProvider",
            "chunk by chunk",
        ):
            assert part in text
        for hidden in ("key", "video"):  # until a token is asked for, until there is one
            assert await tab.value(f"document.getElementById('{hidden}').offsetHeight") == 0
        await tab.value("document.getElementById('model').value = 'wan'")
        await tab.choose_file("#file", tmp_path / "wrong.npy")
        await tab.value("document.getElementById('send').click()")
        refusal = "document.getElementById('result').className == 'wrong'"
        await tab.until(refusal)
        said = await tab.value("document.getElementById('result').innerText")
        assert said.startswith("400: the input 'latent' is of shape")
        await tab.choose_file("#file", tmp_path / "z.npy")
        await tab.value("document.getElementById('send').click()")
        await tab.until("document.getElementById('result').innerText.includes('kB of video')")
        video = "document.getElementById('video')"
        await tab.until(f"{video}.readyState >= 2 && {video}.currentTime > 0")
        assert await tab.value(f"[{video}.videoWidth, {video}.videoHeight].join()") == "6,4"
        assert abs(await tab.value(f"{video}.duration") - 5 / 16) < 0.1
        if "PAGE_PICTURE" in os.environ:
            picture = (await tab.call("Page.captureScreenshot"))["data"]
            Path(os.environ["PAGE_PICTURE"]).write_bytes(base64.b64decode(picture))

    asyncio.run(with_page(f"http://{served.http}/", tmp_path, use))


def test_it_may_fetch_from_its_own_server_only(served):
    status, body, headers = ask(served, "GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert b"http://" not in body
    assert b"https://" not in body
