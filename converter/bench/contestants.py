"""What this package can measure by itself: ONNX graphs, and the matrix product they are held to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converter.compare.running import Runner
from converter.errors import UserError
from converter.providers import choose, make_session
from converter.session import PLAIN, Array, Session, SessionSettings

GEMM_SIZE = 1024
GEMM_COUNT = 4
"""Products in a row, so that on a GPU the way there and back weighs little."""

GEMM_OPERATIONS = 2 * GEMM_SIZE**3 * GEMM_COUNT


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX file on onnxruntime; `threads` None leaves their number to onnxruntime."""

    label: str
    path: Path
    provider: str
    threads: int | None = None
    settings: SessionSettings = PLAIN

    def load(self) -> Runner:
        """See `converter.bench.worker.Contestant`."""
        settings = replace(self.settings, threads=self.threads)
        return make_session(self.path, self.provider, settings)


@dataclass(frozen=True)
class OpenVinoGraph:
    """An ONNX file on OpenVINO's CPU plugin, computing in `precision`, `f32` or `bf16`."""

    label: str
    path: Path
    precision: str
    threads: int | None = None

    def load(self) -> Runner:
        """See `converter.bench.worker.Contestant`."""
        return _OpenVino(self.path, self.precision, self.threads)


@dataclass(frozen=True)
class Gemm:
    """Square float32 matrix products, `GEMM_COUNT` in a row: as fast as arithmetic gets here."""

    provider: str
    threads: int | None = None
    label: str = f"{GEMM_COUNT} GEMMs of {GEMM_SIZE}"
    settings: SessionSettings = PLAIN

    def load(self) -> Runner:
        """See `converter.bench.worker.Contestant`."""
        usable = choose(self.provider)
        settings = replace(self.settings, threads=self.threads, strict=False)
        return Session(gemm_model(), usable.name, usable.id, settings)

    def feed(self) -> dict[str, Array]:
        """The first matrix."""
        random = np.random.default_rng(0)
        return {"a": random.standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)}


def gemm_model() -> bytes:
    """The graph of a (M, M) times a constant (M, M), again and again, scaled to keep its size."""
    random = np.random.default_rng(1)
    b = random.standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32) / np.float32(GEMM_SIZE**0.5)
    names = ["a", *(f"product_{index}" for index in range(GEMM_COUNT))]
    nodes = [
        helper.make_node("MatMul", [before, "b"], [after])
        for before, after in itertools.pairwise(names)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [GEMM_SIZE, GEMM_SIZE])
        for name in (names[0], names[-1])
    ]
    graph = helper.make_graph(nodes, "gemm", ends[:1], ends[1:], [numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


class _OpenVino:
    def __init__(self, path: Path, precision: str, threads: int | None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(
                "openvino is not installed; pip install 'convert-vae[bench]'."
            ) from error
        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # Otherwise it would compute in float32 and say nothing.
        if precision == "bf16" and "BF16" not in able:
            raise UserError("this processor has no bfloat16 instructions, which OpenVINO needs.")
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        self._compiled = core.compile_model(str(path), "CPU", config)
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.description = f"OpenVINO {openvino.__version__.partition('-')[0]} CPU {used}"

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        results = self._compiled(dict(feed))
        return {output.get_any_name(): results[output] for output in self._compiled.outputs}
