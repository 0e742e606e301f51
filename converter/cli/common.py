"""What every command shares: how errors, Ctrl-C and exit codes reach the user."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from converter.errors import UserError
from converter.providers import AUTO, NAMES
from converter.session import SessionSettings

EXIT_EQUAL = 0
EXIT_DIFFERENT = 1
EXIT_BAD_INPUT = 2

CLICK_OWN = (click.ClickException, click.exceptions.Exit, click.Abort)

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., object])


def exit_codes(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command body that returns an exit code into one that exits with it.

    A `UserError` becomes one sentence on stderr and exit code 2; so do Ctrl-C, a full disk, a
    folder that cannot be written, exhausted memory, and a fault of the program itself (which must
    not look like exit code 1). With `--debug` a traceback precedes it. SIGTERM counts as Ctrl-C, so
    that a stopped job leaves no temporary files either.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            sys.exit(command(*args, **kwargs))
        except CLICK_OWN:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            click.echo(f"error: {' '.join(_sentence(error).splitlines())}", err=True)
            sys.exit(EXIT_BAD_INPUT)
        finally:
            signal.signal(signal.SIGTERM, before)

    return wrapper


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written."
    if isinstance(error, MemoryError):
        return "out of memory; nothing was written."
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; nothing was written."
    if isinstance(error, UserError):
        return str(error)
    kind = type(error).__name__
    return f"internal error, please report it with what --debug shows: {kind}: {error}"


def provider_choice(what: str = "", default: str = AUTO) -> Callable[[F], F]:
    """Give a command the options `--provider`, `--provider-option` and `--strict-provider`.

    Its body gets `provider`, `provider_options` and `strict_provider`; of the latter two
    `session_settings` makes what every function that makes a session takes.

    Args:
        what: What runs there, for the help text, such as " of the validation".
        default: The provider where the user names none.
    """
    options = (
        click.option(
            "--provider",
            type=click.Choice([AUTO, *NAMES]),
            default=default,
            show_default=True,
            help=f"Execution provider{what}; auto takes the best that is usable here.",
        ),
        click.option(
            "--provider-option",
            "provider_options",
            multiple=True,
            metavar="NAME=VALUE",
            help="An option of the execution provider, as onnxruntime documents it. Repeatable.",
        ),
        click.option(
            "--strict-provider",
            is_flag=True,
            help="Fail if the provider leaves more than shape arithmetic to the CPU.",
        ),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def session_settings(provider_options: Sequence[str], strict_provider: bool) -> SessionSettings:
    """What the options of `provider_choice` ask of a session; raises `UserError` for no pair."""
    return SessionSettings(parse_pairs("--provider-option", provider_options), strict_provider)


def read_token(file: Path | None) -> str | None:
    """The token that a file holds; raises `UserError` where it holds none."""
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a token: {error}.") from error
    if not token or not token.isascii() or not token.isprintable():
        raise UserError(f"{file} holds no token: one line of printable ASCII.")
    return token


def parse_pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` options as a dictionary; the last `=` divides, as names may hold one."""
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, right = value.rpartition("=")
        if not (name and equals and right):
            raise UserError(f"{option} {value!r} is not of the form NAME=VALUE.")
        pairs.pop(name, None)  # The order matters: a repeated name stands where it was said last.
        pairs[name] = right
    return pairs


def merge_pins(plan: Mapping[str, str], pins: Mapping[str, str]) -> dict[str, str]:
    """The pins of a plan, then those given by hand: of several that match, the last decides."""
    return {name: plan[name] for name in plan if name not in pins} | dict(pins)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Print within: if the reader of a pipe has gone, what was done and its exit code stay."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the one into the other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_shapes(values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x16x3x8x8` options as shapes by input name."""
    shapes = {}
    for name, text in parse_pairs("--shape", values).items():
        sizes = text.lower().split("x")
        if not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise UserError(f"--shape {name}={text} is not a shape such as 1x16x3x8x8.")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes
