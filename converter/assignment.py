"""Which nodes of a session which provider runs, as onnxruntime itself decided it.

Newer releases tell when asked. Older ones (the ROCm package ended with 1.22) say so only in their
most verbose log, on the process's standard error, which is diverted while the session is made.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

RECORD = "session.record_ep_graph_assignment_info"
VERBOSE = 0

_ALL = re.compile(r"All nodes placed on \[(\w+)\]\. Number of nodes: (\d+)")
_SOME = re.compile(r"Node\(s\) placed on \[(\w+)\]\. Number of nodes: (\d+)")
_NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\] +(\S+) \((.*)\)\s*(?:\x1b\[m)?$")


Node = tuple[str, str]
"""Operator and name."""


@dataclass(frozen=True)
class Assignment:
    """Nodes after onnxruntime's own optimizations, which fuse, fold and insert some.

    Attributes:
        first: Id of the session's first provider: the one that was asked for.
        counts: Provider id -> number of nodes, nested graphs included; `first` comes first.
        nodes: Provider id -> its nodes. Empty where onnxruntime gives no more than their number.
    """

    first: str
    counts: Mapping[str, int]
    nodes: Mapping[str, tuple[Node, ...]]

    @property
    def total(self) -> int:
        """All nodes."""
        return sum(self.counts.values())

    def sentence(self) -> str:
        """Such as `ROCMExecutionProvider 411/412 nodes, CPUExecutionProvider 1: Shape`."""
        parts = [f"{self.first} {self.counts[self.first]}/{self.total} nodes"]
        for provider, count in self.counts.items():
            if provider != self.first:
                ops = dict.fromkeys(op for op, _ in self.nodes.get(provider, ()))
                parts.append(f"{provider} {count}" + (f": {', '.join(ops)}" if ops else ""))
        return ", ".join(parts)

    @property
    def elsewhere(self) -> tuple[Node, ...]:
        """The nodes that the first provider does not run."""
        found: list[Node] = []
        for provider, count in self.counts.items():
            if provider != self.first:
                found += self.nodes.get(provider) or [("?", "?")] * count
        return tuple(found)


def record(session_class: Any, options: Any, make: Callable[[Any], Any]) -> tuple[Any, Assignment]:
    """Make a session and learn which provider got which nodes.

    Args:
        session_class: The `InferenceSession` of the onnxruntime in use.
        options: The `SessionOptions` to make it with.
        make: Makes the session of them.
    """
    if hasattr(session_class, "get_provider_graph_assignment_info"):
        options.add_session_config_entry(RECORD, "1")
        session = make(options)
        return session, _from_session(session)
    severity = options.log_severity_level
    options.log_severity_level = VERBOSE
    with _diverted_stderr() as text:
        session = make(options)
    options.log_severity_level = severity
    return session, read_log(text(), session.get_providers()[0])


def read_log(text: str, first: str) -> Assignment:
    """Read the placements out of a verbose log; `first` is the session's first provider."""
    parts: list[tuple[str, int]] = []
    nodes: dict[str, list[Node]] = {}
    for line in text.splitlines():
        heading = _ALL.search(line) or _SOME.search(line)
        node = _NODE.search(line)
        if heading:
            parts.append((heading[1], int(heading[2])))
        elif node and parts:
            nodes.setdefault(parts[-1][0], []).append((node[1], node[2]))
    return _assignment(first, parts, nodes)


def _from_session(session: Any) -> Assignment:
    parts: list[tuple[str, int]] = []
    nodes: dict[str, list[Node]] = {}
    for part in session.get_provider_graph_assignment_info():
        found = [(node.op_type, node.name) for node in part.get_nodes()]
        parts.append((part.ep_name, len(found)))
        nodes.setdefault(part.ep_name, []).extend(found)
    return _assignment(session.get_providers()[0], parts, nodes)


def _assignment(
    first: str, parts: Sequence[tuple[str, int]], nodes: Mapping[str, Sequence[Node]]
) -> Assignment:
    counts = {first: 0}
    for provider, count in parts:
        counts[provider] = counts.get(provider, 0) + count
    return Assignment(first, counts, {p: tuple(found) for p, found in nodes.items()})


@contextmanager
def _diverted_stderr() -> Iterator[Callable[[], str]]:
    """Send file descriptor 2 into a file; yields what reads it afterwards."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        text = ""
        try:
            yield lambda: text
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
