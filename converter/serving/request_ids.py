"""What a request is called in the log, and in the header X-Request-ID of its answer."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
LONGEST = 128


def choose(*given: str) -> str:
    """The first of the ids given that is 1 to 128 printable ASCII characters, or else a new one."""
    for identifier in given:
        fits = 0 < len(identifier) <= LONGEST and identifier == identifier.strip()
        if fits and identifier.isascii() and identifier.isprintable():
            return identifier
    return uuid.uuid4().hex


def identify(request: Request, in_body: str = "") -> str:
    """Settle the id of a request: that of its header, of its body, or a new one."""
    chosen = choose(request.state.request_id, in_body)
    request.state.request_id = chosen
    return chosen


def identified(application: ASGIApp) -> ASGIApp:
    """The application, with the request's id as a header of every answer."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = Headers(scope=scope).get(HEADER, "")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = choose(state["request_id"])
            await send(message)

        await application(scope, receive, send_with_id)

    return call
