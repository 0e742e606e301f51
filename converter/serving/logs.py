"""The server's log: one JSON object a line, on stderr."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter


def log_as_json(level: int) -> None:
    """From now on; a record's fields (model, request, code, seconds) are keys of its object."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "message"],
            rename_fields={"levelname": "level"},
            timestamp="time",
        )
    )
    root = logging.getLogger("converter")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
