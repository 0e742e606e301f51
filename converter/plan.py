"""Which strategy takes which Conv3D, and why: decided without changing anything.

A plan can be printed, saved as JSON, and replayed on the same graph.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from converter.choice import Choice, Chooser, cheapest
from converter.conv3d import Conv3D, Unread
from converter.errors import UserError
from converter.rewrites import BY_NAME, KEEP

AUTO = "auto"
PINNED = "pinned"
ASKED_FOR = "asked for"
PLAN_VERSION = 1


@dataclass(frozen=True)
class PlanEntry:
    """The decision on one Conv3D.

    Attributes:
        node: The node's name, or its output's where nodes share a name or have none.
        output: The name of its output tensor.
        x_shape: (N, C, T, H, W); a name or None where a size is dynamic.
        w_shape: (O, C/group, Kt, Kh, Kw).
        attributes: What differs from a Conv's defaults, to read.
        strategy: What is done; `keep` where it is left as it was.
        reason: Why, in words; for a refusal the reason of the refusal.
        refused: Whether something was asked for that could not be done.
        seconds: What each candidate would take, estimated or measured; empty where none was asked.
        given_up_for: What a faster strategy was given up for; empty where none was.
        tiles: The sizes of Winograd's tiles, in output frames; none without it.
    """

    node: str
    output: str
    x_shape: tuple[int | str | None, ...]
    w_shape: tuple[int | None, ...]
    attributes: str
    strategy: str
    reason: str
    refused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    given_up_for: str = ""
    tiles: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The decisions on all Conv3D nodes of a graph, in graph order."""

    entries: tuple[PlanEntry, ...]

    @property
    def refusals(self) -> tuple[PlanEntry, ...]:
        """The entries where something that was asked for could not be done."""
        return tuple(entry for entry in self.entries if entry.refused)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `read_pins` takes back."""
        return {"version": PLAN_VERSION, "conv3d": [asdict(entry) for entry in self.entries]}


def make_plan(
    found: Sequence[Conv3D | Unread],
    strategy: str = AUTO,
    pins: Mapping[str, str] | None = None,
    choose: Chooser = cheapest,
) -> Plan:
    """Choose a strategy for each Conv3D.

    Args:
        found: What `converter.conv3d.find_conv3d` read.
        strategy: For all that is not pinned: `auto`, the name of a strategy, or `keep`.
        pins: Node name or glob -> strategy; of several that match, the last decides.
        choose: What `auto` means: by estimated cost, or by measured times.

    Raises:
        UserError: a pin that matches no Conv3D, or an unknown strategy.
    """
    pins = pins or {}
    for name in (strategy, *pins.values()):
        if name not in (AUTO, KEEP, *BY_NAME):
            known = ", ".join((AUTO, *BY_NAME, KEEP))
            raise UserError(f"there is no strategy {name!r}; there are {known}.")
    names = [_name(item) for item in found]
    for pattern in pins:
        if not any(matches(name, pattern) for name in names):
            raise UserError(f"the pin {pattern!r} matches no Conv3D of this graph.")
    entries = []
    for item, name in zip(found, names, strict=True):
        pinned = [chosen for pattern, chosen in pins.items() if matches(name, pattern)]
        wanted = pinned[-1] if pinned else strategy
        if isinstance(item, Unread):
            entries.append(_leave(item, wanted))
        else:
            how = PINNED if pinned else ASKED_FOR
            entries.append(_decide(item, wanted, how, choose))
    return Plan(tuple(entries))


def read_pins(path: Path) -> dict[str, str]:
    """The decisions of a saved plan, to be replayed: exact node name -> strategy.

    Raises:
        UserError: the file is missing, not JSON, or not a plan of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"the plan {path} does not exist.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the plan {path} is not JSON: {error}.") from error
    try:
        if data["version"] != PLAN_VERSION:
            raise UserError(f"the plan {path} has version {data['version']}, not {PLAN_VERSION}.")
        return {_literal(entry["node"]): str(entry["strategy"]) for entry in data["conv3d"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a plan that convert-vae wrote.") from error


def _leave(item: Unread, wanted: str) -> PlanEntry:
    return PlanEntry(
        node=item.refusal.node,
        output=item.node.outputs[0].name,
        x_shape=(),
        w_shape=(),
        attributes="",
        strategy=KEEP,
        reason=item.refusal.reason,
        refused=wanted != KEEP,
    )


def _decide(conv: Conv3D, wanted: str, how: str, choose: Chooser) -> PlanEntry:
    if wanted == AUTO:
        choice = choose(conv)
        return _entry(conv, choice)
    if wanted == KEEP:
        return _entry(conv, Choice(KEEP, how))
    refusal = BY_NAME[wanted].check(conv)
    if refusal is not None:
        return _entry(conv, Choice(KEEP, refusal.reason, refused=True))
    return _entry(conv, Choice(wanted, how))


def _entry(conv: Conv3D, choice: Choice) -> PlanEntry:
    return PlanEntry(
        node=conv.name,
        output=conv.y.name,
        x_shape=conv.x_shape,
        w_shape=conv.weight_shape,
        attributes=conv.attributes,
        strategy=choice.strategy,
        reason=choice.reason,
        refused=choice.refused,
        seconds=choice.seconds,
        given_up_for=choice.given_up_for,
    )


def _name(item: Conv3D | Unread) -> str:
    return item.name if isinstance(item, Conv3D) else item.refusal.node


def matches(name: str, pattern: str) -> bool:
    """Whether a pin's name or glob means the node of this name."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def _literal(name: str) -> str:
    """A glob that matches `name` alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
