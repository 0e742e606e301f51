"""The application as it stands before clients: the token, the ids, and the count of refusals."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from converter.serving.access import Access
from converter.serving.http import PROTOCOL, application
from converter.serving.request_ids import HEADER, identified
from converter.serving.server import Server

GONE = 499
"""Of a client that left before it had an answer; nginx's code."""


def front(server: Server, access: Access) -> ASGIApp:
    """All that is served over HTTP."""
    return _refusals_counted(server, identified(access.guard(application(server))))


def _refusals_counted(server: Server, served: ASGIApp) -> ASGIApp:
    """Logs and counts what was answered with an error and never came to a model."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await served(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        code, identifier = GONE, ""

        async def send_seen(message: Message) -> None:
            nonlocal code, identifier
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = dict(message["headers"])
                identifier = headers.get(HEADER.lower().encode(), b"").decode("latin-1")
            await send(message)

        try:
            await served(scope, receive, send_seen)
        except ClientDisconnect:
            code = GONE  # while its body was read
        finally:
            if code >= 400 and not state.get("counted"):
                server.refused(PROTOCOL, code, identifier, scope["method"], scope["path"])

    return call
