"""The ONNX reference evaluator, for graphs that onnxruntime has no kernels for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from converter.compare.reference_conv import conv, multiplications
from converter.errors import CannotCompareError, UserError
from converter.session import RunError, first_line

Array = np.ndarray[Any, np.dtype[Any]]

# Multiplications of all convolutions of a run: some five seconds of NumPy on two cores.
WORK_LIMIT = 2 * 10**10


class TooMuchWorkError(CannotCompareError):
    """The graph would keep the reference evaluator busy for minutes."""


class ReferenceRunner:
    """Runs a model op by op in NumPy; slow, but it knows every type and the newest opset."""

    description = f"onnx {onnx.__version__} reference evaluator"

    def __init__(self, path: Path, work_limit: int = WORK_LIMIT) -> None:
        self._path = path
        self._work_limit = work_limit
        self._work = 0
        try:
            self._evaluator = self._evaluator_class()(str(path))
        except Exception as error:  # whatever the evaluator meets in a graph it does not know
            raise CannotCompareError(
                f"{path} runs neither in onnxruntime nor in the ONNX reference evaluator "
                f"({first_line(error)})."
            ) from error

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `TooMuchWorkError` as soon as the limit is passed."""
        self._work = 0
        try:
            outputs = self._evaluator.run(None, dict(feed))
        except UserError:
            raise
        except Exception as error:
            raise RunError(
                f"{self._path} does not run in the ONNX reference evaluator: {first_line(error)}"
            ) from error
        return {
            name: np.asarray(array)
            for name, array in zip(self._evaluator.output_names, outputs, strict=True)
        }

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > self._work_limit:
            raise TooMuchWorkError(
                f"{self._path} is too large for the ONNX reference evaluator, and onnxruntime "
                "cannot run it; give a smaller --shape"
            )

    def _evaluator_class(self) -> type[ReferenceEvaluator]:
        """An evaluator with our Conv, which tells this runner of its work.

        It is a class because the evaluator makes further instances of its own class for local
        functions, without passing `new_ops` on.
        """
        runner = self

        class Conv(OpRun):  # the evaluator finds it by this name
            def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> Any:
                runner._spend(multiplications(x.shape, w.shape, attributes))
                return (conv(x, w, b, attributes),)

        class Evaluator(ReferenceEvaluator):
            def __init__(self, proto: Any, **options: Any) -> None:
                super().__init__(proto, **{"new_ops": [Conv], **options})

        return Evaluator
