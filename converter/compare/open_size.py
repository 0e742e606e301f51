"""Sizes that a graph leaves open: a name, or a multiple of one as PyTorch's exporter writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_EXPRESSION = re.compile(r"(?:(\d+)\*)?([A-Za-z_]\w*)(?: ([+-]) (\d+))?")


@dataclass(frozen=True)
class OpenSize:
    """factor * k + offset, where k is what `symbol` stands for."""

    symbol: str
    factor: int = 1
    offset: int = 0

    def size(self, k: int) -> int:
        """The size for one k."""
        return self.factor * k + self.offset

    def solve(self, size: int) -> int | None:
        """The k of a size; None where no k has it."""
        k, rest = divmod(size - self.offset, self.factor)
        return None if rest else k

    @property
    def plain(self) -> bool:
        """Whether it is its symbol, so that any size will do."""
        return (self.factor, self.offset) == (1, 0)


def parse(name: str) -> OpenSize:
    """`T`, `8*H`, `4*T - 3`; any other name is a symbol as it stands."""
    found = _EXPRESSION.fullmatch(name)
    if found is None:
        return OpenSize(name)
    factor, symbol, sign, offset = found.groups()
    return OpenSize(symbol, int(factor or 1), int(f"{sign or ''}{offset or 0}"))
