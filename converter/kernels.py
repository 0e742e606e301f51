"""What an execution provider has a kernel for, from tables that ship with this package.

The tables are read out of released onnxruntime packages (scripts/kernel_table.py), so that asking
needs neither the package nor the device. `origin` in each file says which release.

Source of the matching rule: onnxruntime's KernelRegistry. A kernel serves the operator versions
`since` to `until`; where `until` is open, it serves `since` alone, because a later version of the
operator may mean something else.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, Protocol, get_args

import onnx.defs

Target = Literal["generic", "cpu", "rocm", "migraphx", "cuda"]
"""The runtime that a graph is meant for; `generic` is any."""

TARGETS: tuple[Target, ...] = get_args(Target)
GENERIC: Target = "generic"

STANDARD = ("", "ai.onnx")


def names(text: str) -> frozenset[str]:
    """Operators, separated by blanks."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Use:
    """One node, as far as a kernel's choice depends on it.

    Attributes:
        since: The version of the operator's definition that the node's opset selects.
        types: Types of the node's tensors, such as `float16`, by type parameter (`T`) and by
            formal name (`X`). A parameter whose types shape inference does not know is absent.
        attributes: Strings and numbers by name.
        run_time_inputs: Indices of the inputs that are neither constant nor follow from shapes.
    """

    op: str
    domain: str
    since: int
    types: Mapping[str, frozenset[str]]
    attributes: Mapping[str, object] = field(default_factory=dict)
    run_time_inputs: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Missing:
    """Why a provider has no kernel for a node.

    Attributes:
        reason: In words, to stand behind "falls to the CPU: ".
        types: The tensor types it lacks a kernel for, if that is all that is wrong.
    """

    reason: str
    types: frozenset[str] = frozenset()


class Kernels(Protocol):
    """The kernels of one provider."""

    @property
    def provider(self) -> str:
        """The provider's name in onnxruntime."""

    @property
    def origin(self) -> str:
        """The release that the table was read out of."""

    @property
    def newest_opset(self) -> int:
        """The last opset that the release knows."""

    @property
    def newest_ir(self) -> int:
        """The last IR version that the release loads."""

    def missing(self, use: Use) -> Missing | None:
        """Why no kernel takes the node, or None if one does."""


@dataclass(frozen=True)
class _Kernel:
    since: int
    until: int | None
    types: Mapping[str, frozenset[str]]

    def serves(self, since: int) -> bool:
        return since == self.since if self.until is None else self.since <= since <= self.until

    def rejected(self, types: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """Parameter -> those of a node's types that this kernel does not take."""
        found = {name: types.get(name, frozenset()) - ok for name, ok in self.types.items()}
        return {name: rejected for name, rejected in found.items() if rejected}


@dataclass(frozen=True)
class Registry:
    """A provider that registers kernels by operator, version and type: CPU, CUDA, ROCm."""

    provider: str
    origin: str
    newest_opset: int
    newest_ir: int
    kernels: Mapping[tuple[str, str], tuple[_Kernel, ...]]

    def missing(self, use: Use) -> Missing | None:
        """See `Kernels`."""
        domain = "" if use.domain in STANDARD else use.domain
        kernels = self.kernels.get((domain, use.op))
        if not kernels:
            return Missing(f"{self.provider} has no kernel for {use.op}")
        serving = [kernel for kernel in kernels if kernel.serves(use.since)]
        if not serving:
            return Missing(self._served(use, kernels))
        rejected = [kernel.rejected(use.types) for kernel in serving]
        if not all(rejected):
            return None
        nearest = min(rejected, key=len)
        parameter, types = next(iter(nearest.items()))
        allowed = frozenset[str]().union(*(k.types.get(parameter, ()) for k in serving))
        return Missing(
            f"{self.provider} has {use.op} not for {_listed(types)}, only for {_listed(allowed)}",
            frozenset[str]().union(*nearest.values()),
        )

    def _served(self, use: Use, kernels: Collection[_Kernel]) -> str:
        last = max(kernel.since if kernel.until is None else kernel.until for kernel in kernels)
        if use.since > last:
            opset = _last_opset_of(use.op, last)
            return (
                f"{self.provider} has {use.op} up to opset {opset}, "
                f"and this is the version of opset {use.since}"
            )
        return f"{self.provider} has other versions of {use.op} than that of opset {use.since}"


@dataclass(frozen=True)
class Claims:
    """A provider that claims operators by name and compiles them itself: MIGraphX."""

    provider: str
    origin: str
    newest_opset: int
    newest_ir: int
    operators: frozenset[str]
    inputs_known_before_run: Mapping[str, frozenset[int]]
    refused_attributes: Mapping[str, Mapping[str, Collection[object]]]

    def missing(self, use: Use) -> Missing | None:
        """See `Kernels`."""
        if use.op not in self.operators:
            return Missing(f"{self.provider} does not take {use.op}")
        for name, refused in self.refused_attributes.get(use.op, {}).items():
            if use.attributes.get(name) in refused:
                return Missing(
                    f"{self.provider} does not take {use.op} with {name}={use.attributes[name]}"
                )
        late = self.inputs_known_before_run.get(use.op, frozenset()) & use.run_time_inputs
        if late:
            return Missing(
                f"{self.provider} takes {use.op} only where its input {min(late)} is a constant or "
                "follows from shapes"
            )
        return None


@functools.cache
def kernels_of(target: Target) -> Kernels:
    """The table of a target; `generic` has none, which is a programming error."""
    file = resources.files("converter").joinpath("data", f"{target}.json")
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    common = (data["provider"], data["origin"], data["newest_opset"], data["newest_ir"])
    if "operators" in data:
        return Claims(
            *common,
            frozenset(data["operators"]),
            {op: frozenset(inputs) for op, inputs in data["inputs_known_before_run"].items()},
            data["refused_attributes"],
        )
    kernels = {
        (domain, op): tuple(_kernel(*row) for row in rows)
        for domain, ops in data["kernels"].items()
        for op, rows in ops.items()
    }
    return Registry(*common, kernels)


def _kernel(since: int, until: int | None, types: Mapping[str, Collection[str]]) -> _Kernel:
    return _Kernel(since, until, {name: frozenset(allowed) for name, allowed in types.items()})


def _last_opset_of(op: str, version: int) -> int:
    """The last opset whose definition of the operator is the given version."""
    versions = {
        s.since_version
        for s in onnx.defs.get_all_schemas_with_history()
        if s.name == op and s.domain == ""
    }
    return min((v for v in versions if v > version), default=version + 1) - 1


def _listed(types: Collection[str]) -> str:
    names = sorted(types)
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
