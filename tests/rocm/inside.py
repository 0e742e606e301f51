"""Answers one request on a `Machine`: JSON on standard input, JSON on standard output.

Request: {"models": [path, ...], "provider": id, "optimize": bool, "strict": bool, "run": bool}.
Answer: one object a model, with either "error", or "counts" (provider -> nodes), "elsewhere" (names
of nodes that the provider does not run), "named" (all names that are known) and "outputs" (shapes,
where asked to run).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

from converter.assignment import record

DYNAMIC = 3
"""What stands for every dynamic size of an input."""


def answer(path: str, request: dict[str, Any]) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not request["optimize"]:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = [request["provider"], "CPUExecutionProvider"]
    if request["strict"]:  # Then the CPU provider must not even be named.
        providers.pop()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session, assignment = record(
            ort.InferenceSession,
            options,
            lambda opts: ort.InferenceSession(path, opts, providers=providers, enable_fallback=0),
        )
    except Exception as error:
        return {"error": str(error)}
    found: dict[str, Any] = {
        "counts": dict(assignment.counts),
        "elsewhere": [name for _, name in assignment.elsewhere],
        "named": [name for nodes in assignment.nodes.values() for _, name in nodes],
    }
    if request["run"]:
        feed = {i.name: _zeros(i) for i in session.get_inputs()}
        found["outputs"] = [list(y.shape) for y in session.run(None, feed)]
    return found


def _zeros(info: Any) -> Any:
    dtype = {"tensor(float)": np.float32, "tensor(int64)": np.int64}[info.type]
    return np.zeros([d if isinstance(d, int) else DYNAMIC for d in info.shape], dtype)


if __name__ == "__main__":
    request = json.load(sys.stdin)
    answers = [answer(path, request) for path in request["models"]]
    print(json.dumps(answers), flush=True)
    os._exit(0)  # The provider's library expects a real device when it is taken down.
