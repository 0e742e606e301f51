"""What a server allows a client, and how it counts while it reads."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from converter.serving.errors import RequestError, Status, invalid

_WINDOW = {"gzip": 31, "deflate": 15}


@dataclass(frozen=True)
class Limits:
    """Bounds of one request.

    Attributes:
        request: Bytes of a body, decompressed.
        response: Bytes of all outputs.
        timeout: Seconds until the first result, and between results; None for no limit.
        queue: Requests that may wait for a model while one runs.
    """

    request: int = 1 << 30
    response: int = 4 << 30
    timeout: float | None = 600.0
    queue: int = 16


async def read_body(
    parts: AsyncIterator[bytes], encoding: str, declared: str | None, limit: int
) -> memoryview:
    """A body as it comes in, decompressed; stops reading as soon as it is over the limit.

    Args:
        parts: Of the body, as they arrive.
        encoding: The header Content-Encoding, or empty.
        declared: The header Content-Length, if there is one.
        limit: Bytes, after decompression.

    Raises:
        RequestError: too large, another encoding than gzip or deflate, or damaged.
    """
    if encoding not in ("", "identity", *_WINDOW):
        raise invalid(f"the encoding {encoding!r} is none of gzip, deflate, identity")
    if declared is not None and declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    inflate = zlib.decompressobj(_WINDOW[encoding]) if encoding in _WINDOW else None
    body = bytearray()
    async for part in parts:
        try:
            while inflate is not None and part:
                body += inflate.decompress(part, limit - len(body) + 1)
                part = inflate.unconsumed_tail
                if len(body) > limit:
                    raise _too_large(limit)
        except zlib.error as error:
            raise invalid(f"the body is no {encoding}: {error}") from error
        if inflate is None:
            body += part
        if len(body) > limit:
            raise _too_large(limit)
    if inflate is not None and not inflate.eof:
        raise invalid(f"the {encoding} body is cut short")
    return memoryview(body).toreadonly()


def _too_large(limit: int) -> RequestError:
    return RequestError(Status.TOO_LARGE, f"the request is larger than the limit of {limit} bytes")
