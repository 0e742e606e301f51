"""Run `convert-vae` as a user does, and hold on to what was in the folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from converter.cli.convert_vae import main
from tests.patience import PATIENCE

HERE = Path(__file__).resolve().parents[2]


def convert_vae(*arguments: object) -> Result:
    """In this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def process(
    *arguments: object,
    code: str | None = None,
    limits: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the command, or `code` with the same arguments."""
    start = ["-c", code] if code else ["-m", "converter.cli.convert_vae"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=HERE,
        preexec_fn=limits,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )


def assert_refused(done: Result | subprocess.CompletedProcess[str], complaint: str = "") -> None:
    """Exit code 2 and one sentence on stderr that is about the input."""
    code = done.exit_code if isinstance(done, Result) else done.returncode
    assert code == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "internal error" not in line
    assert complaint in line
