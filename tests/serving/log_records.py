"""What the server writes into its log, for a test to read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def listening(take: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Within, `take` gets each record of the server's log from INFO up."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            take(record)

    log, handler = logging.getLogger("converter.serving"), Handler()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield
    log.removeHandler(handler)
    log.setLevel(before)
