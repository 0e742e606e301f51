"""Ask a machine to make sessions of models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.rocm.machine import Machine


def ask(
    machine: Machine,
    paths: Iterable[Path],
    *,
    optimize: bool = False,
    strict: bool = False,
    run: bool = False,
) -> list[dict[str, Any]]:
    """One answer a model, as inside.py describes it."""
    request = {
        "models": [str(p) for p in paths],
        "provider": machine.provider,
        "optimize": optimize,
        "strict": strict,
        "run": run,
    }
    answers: list[dict[str, Any]] = machine.ask(request)
    return answers
