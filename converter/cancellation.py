"""Ending a run of onnxruntime from another thread.

onnxruntime looks at `RunOptions.terminate` between nodes, those in the bodies of loops included; a
node that computes is not interrupted. The session can be used again afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_FATAL = 4
"""The least that onnxruntime then logs; what fails, it raises besides."""


class CancelledRunError(Exception):
    """A run was ended, or not begun, because it is not wanted any more."""


class Cancellation:
    """Whether the work of one thread is still wanted; `cancel` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Any = None
        self.cancelled = False

    def cancel(self) -> None:
        """End what runs, and begin nothing more."""
        with self._lock:
            self.cancelled = True
            if self._running is not None:
                self._running.terminate = True

    @contextmanager
    def applied(self) -> Iterator[None]:
        """All runs of this thread inside the block are ended by `cancel`."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @contextmanager
    def _watched(self, options: Any) -> Iterator[None]:
        with self._lock:
            if self.cancelled:
                raise CancelledRunError
            options.log_severity_level = _FATAL  # an end that was asked for is no error
            self._running = options
        try:
            yield
        except Exception as error:
            if self.cancelled:
                raise CancelledRunError from error
            raise
        finally:
            with self._lock:
                self._running = None


_CURRENT: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


@contextmanager
def ended_when_cancelled(options: Any) -> Iterator[None]:
    """A run with these `RunOptions` happens inside the block.

    Raises:
        CancelledRunError: it was ended by the thread's `Cancellation`, or not begun.
    """
    current = _CURRENT.get()
    if current is None:
        yield
        return
    with current._watched(options):
        yield
