"""Which execution provider runs a graph here, and a session that really runs on it.

A wheel of onnxruntime lists a provider even where its libraries or the device are missing, and
a session then falls back to the CPU without an error. So a provider counts as usable only when a
session of one node has landed on it, and every session made here is checked the same way.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from converter.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

NO_ONNXRUNTIME = (
    "onnxruntime is not installed; install one of its extras: pip install 'convert-vae[cpu]' "
    "(or rocm, migraphx, cuda)."
)
CPU = "cpu"
AUTO = "auto"


@dataclass(frozen=True)
class Provider:
    """An execution provider by its short name, and where its package comes from."""

    name: str
    id: str
    library: str
    package: str


# Best first. AMD recommends MIGraphX over the ROCm provider, which ended with onnxruntime 1.22.
PROVIDERS = (
    Provider("migraphx", "MIGraphXExecutionProvider", "migraphx", "'convert-vae[migraphx]'"),
    Provider("rocm", "ROCMExecutionProvider", "rocm", "'convert-vae[rocm]'"),
    Provider("cuda", "CUDAExecutionProvider", "cuda", "'convert-vae[cuda]'"),
    Provider("openvino", "OpenVINOExecutionProvider", "openvino", "onnxruntime-openvino"),
    Provider(CPU, "CPUExecutionProvider", "", "'convert-vae[cpu]'"),
)
NAMES = tuple(provider.name for provider in PROVIDERS)


@dataclass(frozen=True)
class Usable:
    """A provider that works here, and one sentence on each better one that does not."""

    name: str
    id: str
    why_not: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output as the session states it; a dimension is a size, a name, or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class MissingKernelError(UserError):
    """The provider has no kernel for a node of the graph."""


class RunError(UserError):
    """The graph did not run on the feed it was given."""


def choose(provider: str = AUTO) -> Usable:
    """The provider to run on: the named one, or the best that is usable here.

    Raises `UserError` when onnxruntime is missing, the name is unknown, or the named provider is
    not usable, with the package or library that it lacks.
    """
    if provider == AUTO:
        why_not: list[str] = []
        for candidate in PROVIDERS:
            reason = _why_unusable(candidate)
            if not reason:
                return Usable(candidate.name, candidate.id, tuple(why_not))
            why_not.append(reason)
        raise UserError("no execution provider is usable here: " + " ".join(why_not))
    for candidate in PROVIDERS:
        if candidate.name == provider:
            reason = _why_unusable(candidate)
            if reason:
                raise UserError(reason)
            return Usable(candidate.name, candidate.id)
    raise UserError(f"unknown provider {provider!r}; choose one of auto, {', '.join(NAMES)}.")


def make_session(path: str | Path, provider: str = AUTO) -> Session:
    """Load the model at `path` on a usable provider.

    Raises `MissingKernelError` when the provider lacks a kernel, and `UserError` when the graph
    cannot be loaded or the session fell back to another provider.
    """
    usable = choose(provider)
    try:
        session = _inference_session(str(path), usable.id)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        message = f"{path} cannot be loaded by onnxruntime on {usable.id}: {first_line(error)}"
        kind = MissingKernelError if "NOT_IMPLEMENTED" in str(error) else UserError
        raise kind(message) from error
    return Session(session, usable, str(path))


class Session:
    """An onnxruntime session that takes and returns NumPy arrays, bfloat16 included.

    Inputs with an initializer of the same name are optional and not among `inputs`.
    """

    def __init__(self, session: Any, usable: Usable, path: str) -> None:
        landed = session.get_providers()[0]
        if landed != usable.id:
            raise UserError(
                f"{path} was to run on {usable.id} but onnxruntime fell back to {landed}; "
                f"ask for --provider {CPU} if that is what you want."
            )
        self._session = session
        self.path = path
        self.provider = usable
        self.inputs = tuple(_info(node) for node in session.get_inputs())
        self.outputs = tuple(_info(node) for node in session.get_outputs())

    @property
    def description(self) -> str:
        """What runs the graph, with its version."""
        return f"onnxruntime {onnxruntime().__version__} {self.provider.id}"

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `RunError` with onnxruntime's reason."""
        try:
            if self._has_bfloat16():
                return self._run_values(feed)
            names = [output.name for output in self.outputs]
            return dict(zip(names, self._session.run(names, dict(feed)), strict=True))
        except Exception as error:
            kind = MissingKernelError if "NOT_IMPLEMENTED" in str(error) else RunError
            raise kind(
                f"{self.path} does not run on {self.provider.id}: {first_line(error)}"
            ) from error

    def _has_bfloat16(self) -> bool:
        return any(info.type == "tensor(bfloat16)" for info in (*self.inputs, *self.outputs))

    def _run_values(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """NumPy has no bfloat16 that onnxruntime knows, so its bits travel as uint16."""
        names = [output.name for output in self.outputs]
        values = self._session.run_with_ort_values(
            names, {name: _to_value(array) for name, array in feed.items()}
        )
        return {name: _from_value(value) for name, value in zip(names, values, strict=True)}


def onnxruntime() -> ModuleType:
    """The onnxruntime module; raises `UserError` naming the extras when it is not installed."""
    try:
        import onnxruntime as module
    except ImportError as error:
        if getattr(error, "name", None) not in (None, "onnxruntime"):
            raise UserError(f"onnxruntime is installed but cannot be imported: {error}.") from error
        raise UserError(NO_ONNXRUNTIME) from error
    return module  # type: ignore[no-any-return]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, as much as fits into a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__


def _inference_session(model: str | bytes, provider_id: str) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A spinning pool starves any other pool of the process, such as PyTorch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cpu_id = PROVIDERS[-1].id
    providers = [provider_id] if provider_id == cpu_id else [provider_id, cpu_id]
    # Without enable_fallback=0 the Python layer itself retries on the CPU and only prints so.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


@functools.cache
def _why_unusable(provider: Provider) -> str:
    """Empty when a session of one node lands on the provider, else a sentence saying what lacks."""
    ort = onnxruntime()
    if provider.id not in ort.get_available_providers():
        return (
            f"{provider.name}: the installed onnxruntime {ort.__version__} has no {provider.id}; "
            f"replace it by pip install {provider.package}."
        )
    # The native log would say on stderr what the sentence below says; there is no getter, so
    # the level it returns to is that of every session made here.
    ort.set_default_logger_severity(4)
    try:
        landed = _inference_session(_one_node_model(), provider.id).get_providers()[0]
    except Exception as error:
        return f"{provider.name}: {provider.id} cannot make a session: {first_line(error)}"
    finally:
        ort.set_default_logger_severity(3)
    if landed == provider.id:
        return ""
    lacking = _missing_library(ort, provider)
    if lacking:
        return f"{provider.name}: {provider.id} cannot load {lacking}; install it."
    return f"{provider.name}: {provider.id} fell back to {landed}: no device that it can use."


def _missing_library(ort: ModuleType, provider: Provider) -> str:
    """What the dynamic linker lacks to load the provider's library, or empty.

    Called only after onnxruntime itself has tried: its libraries expect a host that it sets up.
    """
    folder = Path(str(ort.__file__)).parent / "capi"
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    prefix = "" if sys.platform == "win32" else "lib"
    library = folder / f"{prefix}onnxruntime_providers_{provider.library}{suffix}"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).split(":")[0]
    return ""


def _one_node_model() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _info(node: Any) -> TensorInfo:
    return TensorInfo(node.name, node.type, tuple(node.shape))


def _to_value(array: Array) -> Any:
    values = onnxruntime().OrtValue
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return values.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)
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
