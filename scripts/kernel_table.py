"""Write the kernel registry of an execution provider as a table that `converter.kernels` reads.

Run it with a Python that has the onnxruntime package in question; it needs nothing else:

    python scripts/kernel_table.py ROCMExecutionProvider onnxruntime-rocm converter/data/rocm.json

The registry is compiled into the provider's library, which must load; a device is not needed, and
stand-ins for its libraries do (tests/rocm/build.py).
"""

from __future__ import annotations

import itertools
import json
import sys
from importlib.metadata import version
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

OPEN = 2**31 - 1
"""What onnxruntime writes for "until" where a kernel has no last version."""

DOMAINS = ("", "com.microsoft")
"""Others hold what onnxruntime's own layout passes make; no model has such nodes."""

Types = tuple[tuple[str, tuple[str, ...]], ...]
Row = tuple[int, int, Types]


def main(provider: str, package: str, path: str) -> None:
    """Write the table of `provider`, which `package` brings, to `path`."""
    domains: dict[str, dict[str, list[Row]]] = {}
    for kernel in native.get_all_opkernel_def():
        if kernel.provider == provider and kernel.domain in DOMAINS:
            since, until = kernel.version_range
            types = {k: tuple(sorted(map(_short, v))) for k, v in kernel.type_constraints.items()}
            rows = domains.setdefault(kernel.domain, {}).setdefault(kernel.op_name, [])
            rows.append((since, until, tuple(sorted(types.items()))))
    if not domains:
        sys.exit(f"{provider} has no kernels here: is its library loaded?")
    table = {
        "provider": provider,
        "origin": f"kernel registry of {package} {version(package)}",
        "newest_opset": max(
            s.since_version for s in native.get_all_operator_schema() if not s.domain
        ),
        "newest_ir": _newest_ir(),
        "kernels": {
            domain: {
                op: [_row_to_json(row) for row in _merged(rows)] for op, rows in sorted(ops.items())
            }
            for domain, ops in sorted(domains.items())
        },
    }
    Path(path).write_text(_one_line_an_operator(table), encoding="utf-8")


def _newest_ir() -> int:
    """The last IR version that the package accepts; an empty graph fails later on."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for ir_version in itertools.count(10):
        # ModelProto {1: ir_version, 7: graph {2: name "g"}, 8: opset_import {2: version 18}}
        model = bytes([0x08, ir_version, 0x3A, 3, 0x12, 1, ord("g"), 0x42, 2, 0x10, 18])
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if "IR version" in str(error):
                return ir_version - 1
    raise AssertionError


def _short(type_name: str) -> str:
    """tensor(float16) -> float16; other types, such as sequences, stay as they are."""
    inner = type_name.removeprefix("tensor(")
    return inner.removesuffix(")") if inner != type_name else type_name


def _merged(rows: list[Row]) -> list[Row]:
    """Join rows that differ in the types of a single parameter, until none do."""
    merged = sorted(set(rows))
    for left, right in itertools.combinations(merged, 2):
        joined = _join(left, right)
        if joined is not None:
            return _merged([row for row in merged if row not in (left, right)] + [joined])
    return merged


def _join(left: Row, right: Row) -> Row | None:
    names = [name for name, _ in left[2]]
    if left[:2] != right[:2] or names != [name for name, _ in right[2]]:
        return None
    differing = [a[0] for a, b in zip(left[2], right[2], strict=True) if a != b]
    if len(differing) != 1:
        return None
    types = tuple(
        (name, tuple(sorted({*a, *b}))) for (name, a), (_, b) in zip(left[2], right[2], strict=True)
    )
    return (*left[:2], types)


def _row_to_json(row: Row) -> list[object]:
    since, until, types = row
    return [
        since,
        None if until == OPEN else until,
        {name: list(allowed) for name, allowed in types},
    ]


def _one_line_an_operator(table: dict[str, object]) -> str:
    """JSON whose differences between two versions a person can read."""
    kernels = table["kernels"]
    assert isinstance(kernels, dict)
    head = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value)}"
        for key, value in table.items()
        if key != "kernels"
    )
    domains = []
    for domain, ops in kernels.items():
        lines = ",\n".join(
            f"      {json.dumps(op)}: {json.dumps(rows)}" for op, rows in ops.items()
        )
        domains.append(f"    {json.dumps(domain)}: {{\n{lines}\n    }}")
    return f'{{\n{head},\n  "kernels": {{\n' + ",\n".join(domains) + "\n  }\n}\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
