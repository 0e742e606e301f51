"""A session of onnxruntime that takes and returns NumPy arrays, and never runs elsewhere unseen."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from converter.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

CPU_ID = "CPUExecutionProvider"
HOST_IDS = (CPU_ID, "OpenVINOExecutionProvider")
"""Providers whose tensors lie in the host's memory; onnxruntime calls the others' device cuda."""

NO_ONNXRUNTIME = (
    "onnxruntime is not installed; install one of its extras: pip install 'convert-vae[cpu]' "
    "(or rocm, migraphx, cuda)."
)
MESSAGE_LIMIT = 400


class NotSupportedError(UserError):
    """Onnxruntime lacks a kernel for a node, or is older than the graph's opset or IR version."""


class RunError(UserError):
    """The graph did not run on the feed it was given."""


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output as the session states it; a dimension is a size, a name, or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """A graph loaded on the execution provider of id `provider_id`, and on no other.

    `model` is a path or a serialized model. Inputs with an initializer of the same name are
    optional and not among `inputs`. Raises `NotSupportedError` when onnxruntime itself lacks
    something, and `UserError` when the graph cannot be loaded or the session fell back to
    another provider.
    """

    def __init__(self, model: str | bytes, provider: str, provider_id: str) -> None:
        self._label = model if isinstance(model, str) else "the model"
        self.provider = provider
        self.provider_id = provider_id
        try:
            self._session = inference_session(model, provider_id)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            kind = NotSupportedError if _not_supported(error) else UserError
            raise kind(
                f"{self._label} cannot be loaded by onnxruntime on {provider_id}: "
                f"{first_line(error)}"
            ) from error
        landed = self._session.get_providers()[0]
        if landed != provider_id:
            raise UserError(
                f"{self._label} was to run on {provider_id} but onnxruntime fell back to {landed}; "
                "ask for --provider cpu if that is what you want."
            )
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())

    @property
    def description(self) -> str:
        """What runs the graph, with its version."""
        return f"onnxruntime {onnxruntime().__version__} {self.provider_id}"

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `RunError` with onnxruntime's reason."""
        names = [output.name for output in self.outputs]
        run = self._run_values if self._has_bfloat16() else self._session.run
        try:
            return dict(zip(names, run(names, dict(feed)), strict=True))
        except Exception as error:
            kind = NotSupportedError if _not_supported(error) else RunError
            raise kind(
                f"{self._label} does not run on {self.provider_id}: {first_line(error)}"
            ) from error

    def run_values(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Like `run`, but with `OrtValue`s: the outputs stay on the device that made them."""
        binding = self._session.io_binding()
        device = "cpu" if self.provider_id in HOST_IDS else "cuda"
        try:
            for name, value in feed.items():
                binding.bind_ortvalue_input(name, value)
            for output in self.outputs:
                binding.bind_output(output.name, device)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RunError(
                f"{self._label} does not run on {self.provider_id}: {first_line(error)}"
            ) from error
        names = [output.name for output in self.outputs]
        return dict(zip(names, binding.get_outputs(), strict=True))

    @staticmethod
    def value(array: Array) -> Any:
        """An array as an `OrtValue` on the host."""
        return _to_value(array)

    @staticmethod
    def array(value: Any) -> Array:
        """An `OrtValue`, on whichever device, as an array."""
        return _from_value(value)

    def _has_bfloat16(self) -> bool:
        return any(info.type == "tensor(bfloat16)" for info in (*self.inputs, *self.outputs))

    def _run_values(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """Run with bfloat16, which onnxruntime does not take from NumPy: as bits in uint16."""
        values = {name: _to_value(array) for name, array in feed.items()}
        return [_from_value(v) for v in self._session.run_with_ort_values(names, values)]


def onnxruntime() -> ModuleType:
    """The onnxruntime module; raises `UserError` naming the extras when it is not installed."""
    try:
        import onnxruntime as module
    except ImportError as error:
        if error.name == "onnxruntime":
            raise UserError(NO_ONNXRUNTIME) from error
        raise UserError(f"onnxruntime is installed but cannot be imported: {error}.") from error
    if not hasattr(module, "InferenceSession"):  # an empty folder that an uninstall left behind
        raise UserError(NO_ONNXRUNTIME)
    return module  # type: ignore[no-any-return]


def inference_session(model: str | bytes, provider_id: str) -> Any:
    """A raw session that asks for the provider; onnxruntime may still place it on the CPU."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A spinning pool starves any other pool of the process, such as PyTorch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [provider_id] if provider_id == CPU_ID else [provider_id, CPU_ID]
    # Without enable_fallback=0 the Python layer itself retries on the CPU and only prints so.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without onnxruntime's source locations and codes."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    message = re.sub(r"^.*\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) : ", r"\1: ", lines[0])
    message = re.sub(r": ?/\S+:\d+ .*?\) ", ": ", message)
    return message[:MESSAGE_LIMIT]


def _not_supported(error: BaseException) -> bool:
    """Whether onnxruntime itself lacks something, rather than the graph or the feed being wrong."""
    return any(
        sign in str(error)
        for sign in ("NOT_IMPLEMENTED", "Unsupported model IR version", "is under development")
    )


def _info(node: Any) -> TensorInfo:
    return TensorInfo(node.name, node.type, tuple(node.shape))


def _to_value(array: Array) -> Any:
    values = onnxruntime().OrtValue
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return values.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
    return values.ortvalue_from_numpy(np.ascontiguousarray(array))


def _from_value(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape: Sequence[int] = value.shape()
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.empty(shape, ml_dtypes.bfloat16)
    buffer = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    bits: Array = np.array(buffer, np.uint16)  # a copy: the value owns the buffer and dies here
    typed: Array = bits.view(ml_dtypes.bfloat16).reshape(shape)
    return typed
