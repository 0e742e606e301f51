"""Who may ask: a bearer token, if there is one; the page, and health for probes, stay open."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
"""They say nothing of the models."""
REFUSAL = "this server needs the header Authorization: Bearer TOKEN, with its own token"


@dataclass(frozen=True)
class Access:
    """The token that every request must carry; None lets everybody in."""

    token: str | None = field(default=None, repr=False)

    def allows(self, authorization: str | None) -> bool:
        """Whether the value of an Authorization header is the right one, in constant time."""
        if self.token is None:
            return True
        wanted = f"Bearer {self.token}".encode()
        return hmac.compare_digest((authorization or "").encode(), wanted)

    def guard(self, application: ASGIApp) -> ASGIApp:
        """The application behind the check."""
        if self.token is None:
            return application

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            given = Headers(scope=scope).get("authorization") if scope["type"] == "http" else None
            is_open = scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS
            if is_open or self.allows(given):
                await application(scope, receive, send)
                return
            refusal = JSONResponse({"error": REFUSAL}, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)

        return guarded
