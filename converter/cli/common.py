"""What every command shares: how errors, Ctrl-C and exit codes reach the user."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec

import click

from converter.errors import UserError

EXIT_EQUAL = 0
EXIT_DIFFERENT = 1
EXIT_BAD_INPUT = 2

P = ParamSpec("P")


def exit_codes(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command body that returns an exit code into one that exits with it.

    A `UserError` becomes one sentence on stderr and exit code 2; so do Ctrl-C, a full disk, a
    folder that cannot be written, and exhausted memory. With `--debug` the traceback is shown too.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            sys.exit(command(*args, **kwargs))
        except (UserError, OSError, MemoryError, KeyboardInterrupt) as error:
            if kwargs.get("debug"):
                raise
            click.echo(f"error: {_sentence(error)}", err=True)
            sys.exit(EXIT_BAD_INPUT)

    return wrapper


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written."
    if isinstance(error, MemoryError):
        return "out of memory; nothing was written."
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; nothing was written."
    return str(error)


def parse_pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` options as a dictionary; the last `=` divides, as names may hold one."""
    pairs = {}
    for value in values:
        name, equals, right = value.rpartition("=")
        if not (name and equals and right):
            raise UserError(f"{option} {value!r} is not of the form NAME=VALUE.")
        pairs[name] = right
    return pairs


def parse_shapes(values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x16x3x8x8` options as shapes by input name."""
    shapes = {}
    for name, text in parse_pairs("--shape", values).items():
        sizes = text.lower().split("x")
        if not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise UserError(f"--shape {name}={text} is not a shape such as 1x16x3x8x8.")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes
