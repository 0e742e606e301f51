"""A client of `serve-vae` that tries again: decoding twice gives the same, so it may.

It needs NumPy only. Clients of Triton and KServe do as well, and do more.
"""

from __future__ import annotations

import http.client
import io
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converter.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

AGAIN = (429, 502, 503)
"""Answers after which it is worth trying again; 502 is that of a proxy."""

BROKEN = 500
"""Worth it as well where it is not the server's own: of Ray's proxy, when a replica has died."""

LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Client:
    """A server to ask.

    Attributes:
        url: Such as `http://127.0.0.1:8000`.
        token: What the server's `--token-file` holds, if it has one.
        timeout: Seconds without a byte of an answer until a try counts as failed.
        tries: How often a request is sent at most.
        sleep: Waits between tries, in seconds.
    """

    url: str
    token: str = field(default="", repr=False)
    timeout: float = 600.0
    tries: int = 8
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Raises `UserError` where `url` is none."""
        try:
            parts = urllib.parse.urlsplit(self.url)
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise UserError(f"{self.url!r} is no address such as http://127.0.0.1:8000.")

    def metadata(self, model: str) -> dict[str, Any]:
        """What the server states of a model: inputs and outputs, each name, datatype and shape.

        Raises:
            UserError: there is no such model, no such server, or it speaks another protocol.
        """
        try:
            content = json.loads(self._send(self._request(_path(model), None, {})))
            for tensor in (*content["inputs"], *content["outputs"]):
                if not {"name", "datatype", "shape"} <= tensor.keys():
                    raise KeyError("name, datatype, shape")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.url} does not speak the Open Inference Protocol: it says nothing that can "
                f"be understood of {model!r}."
            ) from error
        return dict(content)

    def decode(self, model: str, latent: Array) -> Array:
        """The video (N, 3, T', H', W') of a latent (N, C, T, H, W).

        Raises:
            UserError: the server refuses the request, or does not answer however often asked.
        """
        body = self._decode(model, latent, "application/x-npy", "")
        try:
            video: Array = np.load(io.BytesIO(body), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{self.url} answers with something else than a video.") from error
        return video

    def video(self, model: str, latent: Array, fps: float = 16) -> bytes:
        """The same as an .mp4 file. Raises as `decode`."""
        return self._decode(model, latent, "video/mp4", f"?fps={fps:g}")

    def _decode(self, model: str, latent: Array, accept: str, query: str) -> bytes:
        file = io.BytesIO()
        np.save(file, latent, allow_pickle=False)
        headers = {"Accept": accept, "Content-Type": "application/x-npy"}
        return self._send(self._request(f"{_path(model)}/decode{query}", file.getvalue(), headers))

    def _request(
        self, path: str, body: bytes | None, headers: dict[str, str]
    ) -> urllib.request.Request:
        request = urllib.request.Request(self.url.rstrip("/") + path, body, headers)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        return request

    def _send(self, request: urllib.request.Request) -> bytes:
        reason, wanted = "", 0.0
        for number in range(self.tries):
            if number:
                # Full jitter: clients that were turned away together do not come back together.
                longest = min(LONGEST_PAUSE, 0.25 * 2**number)
                self.sleep(max(wanted, random.uniform(0, longest)))
            wanted = 0.0
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    body: bytes = answer.read()
                    return body
            except urllib.error.HTTPError as error:
                with error:
                    sentence = _sentence(error)
                reason = f"{error.code}: {sentence or error.reason}"
                if error.code not in AGAIN and not (error.code == BROKEN and sentence is None):
                    raise UserError(f"{self.url} answers {reason}") from error
                after = error.headers.get("Retry-After", "")
                wanted = min(LONGEST_PAUSE, float(after)) if after.isdecimal() else 0.0
            except (OSError, http.client.HTTPException) as error:  # refused, cut off, timed out
                reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise UserError(f"{self.url} does not answer after {self.tries} tries: {reason}")


def _path(model: str) -> str:
    return f"/v2/models/{urllib.parse.quote(model, safe='')}"


def _sentence(error: urllib.error.HTTPError) -> str | None:
    """What the server says went wrong; None where the answer is another's."""
    try:
        return str(json.load(error)["error"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
