"""What goes on now, on a terminal; silent when piped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from converter.report.terminal import console


def progress(quiet: bool) -> AbstractContextManager[Callable[[str], None]]:
    """A function that shows the phase it is told."""
    if quiet or not sys.stderr.isatty():
        return nullcontext(lambda phase: None)
    return _Spinner()


class _Spinner(AbstractContextManager[Callable[[str], None]]):
    def __init__(self) -> None:
        self._status = console(stderr=True).status("starting")

    def __enter__(self) -> Callable[[str], None]:
        self._status.__enter__()
        # A spinner that is named is drawn at once, so that a short phase is seen too.
        return lambda phase: self._status.update(phase, spinner="dots")

    def __exit__(self, *exception: object) -> None:
        self._status.stop()
