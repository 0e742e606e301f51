"""A session of onnxruntime that takes and returns NumPy arrays, and never runs elsewhere unseen."""

from __future__ import annotations

import ctypes
import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from converter.assignment import Assignment, record
from converter.cancellation import CancelledRunError, ended_when_cancelled
from converter.errors import UserError
from converter.heap import freed_at_once, return_freed_memory
from converter.strictness import more_than_shapes

Array = np.ndarray[Any, np.dtype[Any]]

CPU_ID = "CPUExecutionProvider"
HOST_IDS = (CPU_ID, "OpenVINOExecutionProvider")
"""Providers whose tensors lie in the host's memory; onnxruntime calls the others' device cuda."""

DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""An entry of onnxruntime's session options."""

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


@dataclass(frozen=True)
class SessionSettings:
    """What a user may ask of a session.

    Attributes:
        provider_options: The provider's own options, as onnxruntime documents them.
        strict: Whether more than shape arithmetic on another provider is an error.
        threads: How many an operator may use on the CPU; None as onnxruntime chooses.
        arena: Whether onnxruntime keeps the host's memory for the next run, and plans it as one
            block. That is faster for small tensors; for large ones it can double the peak.
        data_folder: Where the external data of a serialized model lies.
    """

    provider_options: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    threads: int | None = None
    arena: bool = True
    data_folder: str | None = None


PLAIN = SessionSettings()


class Session:
    """A graph loaded on the execution provider of id `provider_id`.

    `model` is a path or a serialized model. Inputs with an initializer of the same name are
    optional and not among `inputs`. `assignment` says which nodes run elsewhere; None on the CPU,
    where all do. Raises `NotSupportedError` when onnxruntime itself lacks something, and
    `UserError` when the graph cannot be loaded, the session fell back to another provider, an
    option is not one of the provider's, or `settings.strict` is not met.
    """

    def __init__(
        self,
        model: str | bytes,
        provider: str,
        provider_id: str,
        settings: SessionSettings = PLAIN,
    ) -> None:
        self._label = model if isinstance(model, str) else "the model"
        self.provider = provider
        self.provider_id = provider_id
        try:
            self._session, self.assignment = recorded_session(model, provider_id, settings)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            option = _option_failure(provider_id, settings.provider_options, error)
            if option:
                raise UserError(option) from error
            if not _not_supported(error):
                raise UserError(f"{self._cannot_load()}: {first_line(error)}") from error
            raise NotSupportedError(
                f"{self._cannot_load()}: {first_line(error)} (check-vae says which nodes a target "
                "lacks, convert-vae --target what helps)"
            ) from error
        landed = self._session.get_providers()[0]
        if landed != provider_id:
            raise UserError(
                f"{self._label} was to run on {provider_id} but onnxruntime fell back to {landed}; "
                "ask for --provider cpu if that is what you want."
            )
        _check_options(self._session, provider_id, settings.provider_options)
        if settings.strict:
            self._check_strict(model)
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())

    @property
    def metadata(self) -> dict[str, str]:
        """The model's `metadata_props`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def description(self) -> str:
        """What runs the graph, with its version, and how many nodes on which provider."""
        where = self.provider_id if self.assignment is None else self.assignment.sentence()
        return f"onnxruntime {onnxruntime().__version__} {where}"

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
        """Like `run`, but with `OrtValue`s: the outputs stay on the device that made them.

        A `Cancellation` ends it; then `CancelledRunError` is raised.
        """
        binding = self._session.io_binding()
        device = "cpu" if self.provider_id in HOST_IDS else "cuda"
        try:
            for name, value in feed.items():
                binding.bind_ortvalue_input(name, value)
            for output in self.outputs:
                binding.bind_output(output.name, device)
            options = onnxruntime().RunOptions()
            with ended_when_cancelled(options):
                self._session.run_with_iobinding(binding, options)
        except CancelledRunError:
            raise
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

    @staticmethod
    def dlpack(value: Any) -> Any:
        """An `OrtValue` as an object that offers DLPack, on its device and without a copy."""
        return value._get_c_value()

    def _cannot_load(self) -> str:
        return f"{self._label} cannot be loaded by onnxruntime on {self.provider_id}"

    def _check_strict(self, model: str | bytes) -> None:
        """Raise `UserError` if more than shape arithmetic runs on another provider."""
        elsewhere = () if self.assignment is None else self.assignment.elsewhere
        work = [f"{op} ({name})" for op, name in more_than_shapes(model, elsewhere)]
        if work:
            more = f" and {len(work) - 3} more" if len(work) > 3 else ""
            raise UserError(
                f"--strict-provider: {self._label} does not run on {self.provider_id} alone: "
                f"{', '.join(work[:3])}{more} would not; check-vae says why."
            )

    def _has_bfloat16(self) -> bool:
        return any(info.type == "tensor(bfloat16)" for info in (*self.inputs, *self.outputs))

    def _run_values(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """Run with bfloat16, which onnxruntime does not take from NumPy: as bits in uint16."""
        values = {name: _to_value(array) for name, array in feed.items()}
        return [_from_value(v) for v in self._session.run_with_ort_values(names, values)]


def onnxruntime() -> ModuleType:
    """The onnxruntime module; raises `UserError` naming the extras when it is not installed.

    Unless `ORT_DISABLE_TELEMETRY` says otherwise, its reports of usage are switched off first.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as module
    except ImportError as error:
        if error.name == "onnxruntime":
            raise UserError(NO_ONNXRUNTIME) from error
        raise UserError(f"onnxruntime is installed but cannot be imported: {error}.") from error
    if not hasattr(module, "InferenceSession"):  # an empty folder that an uninstall left behind
        raise UserError(NO_ONNXRUNTIME)
    return module  # type: ignore[no-any-return]


def inference_session(
    model: str | bytes, provider_id: str, settings: SessionSettings = PLAIN
) -> Any:
    """A raw session that asks for the provider; onnxruntime may still place it on the CPU."""
    with freed_at_once() if settings.arena else nullcontext():
        options = _options(settings, provider_id)
        session = _make(options, model, provider_id, settings.provider_options)
    return_freed_memory()
    return session


def recorded_session(
    model: str | bytes, provider_id: str, settings: SessionSettings
) -> tuple[Any, Assignment | None]:
    """The same, and which provider got which nodes; None for the CPU, which gets all."""
    if provider_id == CPU_ID:
        return inference_session(model, provider_id, settings), None
    return record(
        onnxruntime().InferenceSession,
        _options(settings, provider_id),
        lambda options: _make(options, model, provider_id, settings.provider_options),
    )


def _options(settings: SessionSettings, provider_id: str) -> Any:
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = settings.threads or 0
    options.enable_cpu_mem_arena = settings.arena
    # A pattern is one block for all tensors of a run, held beside what the first run allocated.
    options.enable_mem_pattern = settings.arena and provider_id != CPU_ID
    # Tensors of one size would share a block that is kept from the first of them to the last. The
    # arena does better; without one, every block of its own is a page fault for each page.
    options.enable_mem_reuse = not settings.arena or provider_id != CPU_ID
    options.log_severity_level = 3
    # A spinning pool starves any other pool of the process, such as PyTorch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if settings.data_folder is not None:
        options.add_session_config_entry(DATA_FOLDER, settings.data_folder)
    return options


def _make(
    options: Any, model: str | bytes, provider_id: str, provider_options: Mapping[str, str]
) -> Any:
    ort = onnxruntime()
    asked = (provider_id, dict(provider_options)) if provider_options else provider_id
    providers = [asked] if provider_id == CPU_ID else [asked, CPU_ID]
    # The Python layer retries on the CPU and only prints so: newer ones can be told not to by
    # enable_fallback, in older ones what they print is the only sign.
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:
        if "QuickGelu" not in str(error):
            raise
        # Sigmoid and Mul in bfloat16 were fused into an operator that has no kernel.
        return ort.InferenceSession(
            model,
            options,
            providers=providers,
            enable_fallback=0,
            disabled_optimizers=["QuickGeluFusion"],
        )
    failure = re.search(r"EP Error (.*) when using", printed.getvalue(), re.DOTALL)
    if failure:
        raise RuntimeError(failure[1])
    return session


def _option_failure(provider_id: str, given: Mapping[str, str], error: Exception) -> str:
    """A sentence if a provider option is what the error is about, else empty."""
    text = str(error)
    unknown = re.search(r"(?:Unknown provider|Invalid \w+ EP) option: \"?(\w+)", text)
    if unknown:
        return f"--provider-option: {provider_id} has no option {unknown[1]!r}."
    bad = re.search(r"Failed to parse provider option \"(\w+)\": (.*)", text)
    if bad:
        reason = re.sub(r"^\S+\.(cc|h):\d+ \S+ ", "", bad[2])
        return (
            f"--provider-option: {provider_id} does not take {bad[1]}={given.get(bad[1])}: {reason}"
        )
    return ""


def _check_options(session: Any, provider_id: str, given: Mapping[str, str]) -> None:
    """Raise `UserError` for an option that the provider silently ignored."""
    if not given:
        return
    known = session.get_provider_options().get(provider_id, {})
    for name in given:
        if provider_id == CPU_ID or (known and name not in known):
            raise UserError(f"--provider-option: {provider_id} has no option {name!r}.")


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
