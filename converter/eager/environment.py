"""Environment switches, for launchers whose code cannot be edited.

CONVERT_VAE_CONV2D=1 (or a strategy's name: unfold, taps, winograd) replaces the convolution of
every nn.Conv3d that is constructed in the process; CONVERT_VAE_CONV2D_BF16=1 computes it in bf16 as
well. 0, empty or unset is off.

A launcher that can be given an environment, but not a line of code, takes the switches with

    export PYTHONPATH=$(python -m converter.eager)${PYTHONPATH:+:$PYTHONPATH}

That folder holds a `sitecustomize`, which Python imports at its start, in child processes too. It
waits for the process to import torch and then calls `install_from_environment`. Where a line of
code can be added, call that before the model is built. (`python -I`, `-E` and `-S` take no notice
of PYTHONPATH or sitecustomize.)
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converter.eager import replacement
from converter.errors import UserError

CONV2D = "CONVERT_VAE_CONV2D"
CONV2D_BF16 = "CONVERT_VAE_CONV2D_BF16"
STARTUP_FOLDER = Path(__file__).parent / "startup"

_ON = ("1", "true", "yes", "on")
_OFF = ("", "0", "false", "no", "off")
_log = logging.getLogger("converter.eager")
_original_init: Callable[..., None] | None = None


def install_from_environment(environ: Mapping[str, str] = os.environ) -> bool:
    """Replace every nn.Conv3d constructed from now on, if the environment asks for it.

    Returns whether it does. Modules that are refused, for the reasons of `replace_conv3d`, are
    logged by the logger `converter.eager` and left alone. A second call, or one with the switches
    off, lets the last one's settings go first. Modules constructed before are not touched.

    Raises UserError for a value that is no switch and no strategy.
    """
    strategy, compute_dtype = _settings(environ)
    uninstall()
    if strategy is None:
        return False
    _install(strategy, compute_dtype)
    _log.info("nn.Conv3d computes by Conv2d: %s, %s", strategy, compute_dtype or "its own type")
    return True


def uninstall() -> None:
    """Construct nn.Conv3d as PyTorch does; for existing modules there is `restore_conv3d`."""
    global _original_init
    if _original_init is not None:
        nn.Conv3d.__init__ = _original_init  # type: ignore[method-assign]
        _original_init = None


def _settings(environ: Mapping[str, str]) -> tuple[str | None, torch.dtype | None]:
    conv2d, bf16 = environ.get(CONV2D, "").lower(), environ.get(CONV2D_BF16, "").lower()
    if bf16 not in _ON + _OFF:
        raise UserError(f"{CONV2D_BF16}={bf16} is not a switch; set it to 1 or 0.")
    if conv2d not in (*_ON, *_OFF, *replacement.STRATEGIES):
        known = ", ".join(replacement.STRATEGIES)
        raise UserError(f"{CONV2D}={conv2d} is neither a switch, 1 or 0, nor one of {known}.")
    if conv2d in replacement.STRATEGIES:
        strategy: str | None = conv2d
    else:
        # bf16 implies the replacement.
        strategy = "unfold" if conv2d in _ON or bf16 in _ON else None
    return strategy, torch.bfloat16 if bf16 in _ON else None


def _install(strategy: str, compute_dtype: torch.dtype | None) -> None:
    global _original_init
    original = _original_init = nn.Conv3d.__init__

    @functools.wraps(original)
    def construct(self: nn.Conv3d, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        reason = replacement.refusal(self)
        if reason is None:
            replacement.attach(self, strategy, compute_dtype)
        else:
            _log.warning("a %s keeps its Conv3d: %s", type(self).__name__, reason)

    nn.Conv3d.__init__ = construct  # type: ignore[method-assign]
