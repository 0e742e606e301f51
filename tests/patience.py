"""Waiting for what another thread or process does, on a machine however busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds after which what did not happen never will; only a test that fails takes them."""


def until(condition: Callable[[], T]) -> T:
    """The first thing true that `condition` gives."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found
