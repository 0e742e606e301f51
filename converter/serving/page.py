"""The page at `/`: one HTML file of the package, with no network of its own."""

from __future__ import annotations

import functools
from importlib.resources import files

from starlette.responses import HTMLResponse, Response

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def page() -> Response:
    """The page; it asks the server's own addresses for what it shows."""
    return HTMLResponse(_text(), headers={"content-security-policy": _POLICY})


@functools.cache
def _text() -> str:
    return files("converter.serving").joinpath("page.html").read_text(encoding="utf-8")
