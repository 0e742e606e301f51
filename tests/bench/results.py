"""A measurement with samples that are easy to reckon with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from converter.bench.contestants import GEMM_OPERATIONS
from converter.bench.result import BenchResult, Lane
from converter.bench.worker import Memory, Sample
from converter.compare.metrics import difference

MACHINE = {
    "cpu": "Example CPU",
    "cpus": 4,
    "vectors": ["avx2"],
    "memory_bytes": 8 * 2**30,
    "load_average": 0.25,
    "system": "Linux",
    "versions": {"python": "3.11", "onnx": "1.19"},
}


def lane(label, wall, cpu=None, error=None, **fields):
    samples = tuple(Sample(w, c) for w, c in zip(wall, cpu or wall, strict=True))
    compared = None
    if error is not None:
        zeros = np.zeros(4, np.float32)
        compared = difference("y", zeros, zeros + np.float32(error))
    memory = Memory(10_000_000, 300_000_000, 2_000_000_000)
    return replace(Lane(label, "a runtime", 0.5, samples, memory, compared), **fields)


def result(*lanes, gemm=(1.0, 2.0, 4.0), operations=GEMM_OPERATIONS, rounds=3, **fields):
    """By default the first lane does as many operations as the GEMM."""
    made = BenchResult(
        lanes=lanes,
        gemm=lane("the GEMM", gemm, [2 * seconds for seconds in gemm]),
        rounds=rounds,
        feed_shapes={"x": (1, 2, 3)},
        seed=7,
        threads=2,
        operations=operations,
        interrupted=False,
        machine=MACHINE,
    )
    return replace(made, **fields)


TWO = result(
    lane("first.onnx", [4.0, 6.0, 8.0], [8.0, 11.0, 16.0]),
    lane("second|.onnx", [2.0, 2.0, 4.0], [4.0, 4.0, 8.0], error=0.25),
)
