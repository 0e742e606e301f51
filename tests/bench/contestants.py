"""Contestants whose behaviour is known, for processes that import this module anew."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from converter.errors import UserError
from converter.session import RunError
from tests.patience import PATIENCE


@dataclass(frozen=True)
class Scale:
    """y = factor * x; each run appends the label to `log`."""

    label: str
    log: Path
    factor: float = 1.0
    output: str = "y"
    fails_at_load: str = ""
    fails_at_run: int = 0
    smallest: int = 0

    def load(self):
        if self.fails_at_load:
            raise UserError(self.fails_at_load)
        return _Scaling(self)

    def feed(self):
        return {"x": np.ones(1, np.float32)}


class _Scaling:
    description = "a multiplication"

    def __init__(self, contestant):
        self.contestant = contestant
        self.runs = 0

    def run(self, feed):
        contestant = self.contestant
        if feed["x"].size < contestant.smallest:
            raise RunError(f"{feed['x'].size} is too small")
        self.runs += 1
        if self.runs == contestant.fails_at_run:
            raise ZeroDivisionError("nothing to divide by")
        with contestant.log.open("a") as file:
            file.write(contestant.label + "\n")
        return {contestant.output: feed["x"] * np.float32(contestant.factor)}


@dataclass(frozen=True)
class Odd:
    """Does one odd thing: `die`, `starve`, `sleep`, `fill` or `types`."""

    deed: str
    label: str = "odd"

    def load(self):
        if self.deed == "die":
            os._exit(3)
        if self.deed == "starve":
            raise MemoryError
        if self.deed == "sleep":
            time.sleep(LONG)
        if self.deed == "fill":
            np.ones(FILLED, np.uint8)
        return self

    @property
    def description(self):
        return self.deed

    def run(self, feed):
        if self.deed == "fill":
            np.ones(FILLED // 2, np.uint8)
            return {}
        return odd_arrays()


FILLED = 100_000_000
LONG = 2 * PATIENCE
"""Of a sleep that nobody waits for."""


def odd_arrays():
    return {
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "bf16": np.array([1.5, -2], ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(True),
    }
