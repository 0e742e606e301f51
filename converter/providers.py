"""Which execution provider runs a graph here.

A wheel of onnxruntime lists a provider even where its libraries or the device are missing, and
a session then falls back to the CPU without an error. So a provider counts as usable only when a
session of one node has landed on it, and every session made here is checked the same way.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from onnx import TensorProto, helper
from platformdirs import user_cache_path

from converter.errors import UserError
from converter.session import (
    CPU_ID,
    Session,
    SessionSettings,
    first_line,
    inference_session,
    onnxruntime,
)

AUTO = "auto"


@dataclass(frozen=True)
class Provider:
    """An execution provider: short name, onnxruntime's id, library stem, package to install."""

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
    Provider("cpu", CPU_ID, "", "'convert-vae[cpu]'"),
)
MIOPEN_CACHES = {"MIOPEN_USER_DB_PATH": "miopen", "MIOPEN_CUSTOM_CACHE_DIR": "miopen"}
NAMES = tuple(provider.name for provider in PROVIDERS)


@dataclass(frozen=True)
class Usable:
    """A provider that works here, and one sentence on each better one that does not."""

    name: str
    id: str
    why_not: tuple[str, ...] = ()


def choose(provider: str = AUTO) -> Usable:
    """The provider to run on: the named one, or the best that is usable here.

    Raises `UserError` when onnxruntime is missing, the name is unknown, or the named provider is
    not usable, with the package or library that it lacks.
    """
    if provider != AUTO and provider not in NAMES:
        raise UserError(f"unknown provider {provider!r}; choose one of auto, {', '.join(NAMES)}.")
    why_not: list[str] = []
    for candidate in PROVIDERS:
        if provider not in (AUTO, candidate.name):
            continue
        reason = _why_unusable(candidate)
        if not reason:
            return Usable(candidate.name, candidate.id, tuple(why_not))
        why_not.append(reason)
    raise UserError(" ".join(why_not))


def make_session(
    model: str | Path | bytes, provider: str = AUTO, settings: SessionSettings | None = None
) -> Session:
    """Load a file or serialized model on a usable provider; raises as `choose` and `Session`."""
    usable = choose(provider)
    settings = settings or SessionSettings()
    keep_caches(usable.name, settings.provider_options)
    return Session(
        str(model) if isinstance(model, Path) else model, usable.name, usable.id, settings
    )


def keep_caches(provider: str, given: Mapping[str, str]) -> None:
    """Have AMD's compilers keep what they find in the user's cache folder, unless told otherwise.

    MIOpen searches kernels, and MIGraphX compiles, for minutes at the first run of every shape.
    """
    if provider not in ("rocm", "migraphx"):
        return
    folders = dict(MIOPEN_CACHES)
    # The variable would override the option.
    if provider == "migraphx" and "migraphx_model_cache_dir" not in given:
        folders["ORT_MIGRAPHX_MODEL_CACHE_PATH"] = "migraphx"
    _set_folders(folders)


def _set_folders(folders: Mapping[str, str]) -> None:
    """Environment variable -> folder within the user's cache folder, where it is not set yet."""
    for variable, name in folders.items():
        if variable not in os.environ:
            folder = user_cache_path("convert-vae") / name
            folder.mkdir(parents=True, exist_ok=True)
            os.environ[variable] = str(folder)


@functools.cache
def _why_unusable(provider: Provider) -> str:
    """Empty when a session of one node lands on the provider, else a sentence saying what lacks."""
    ort = onnxruntime()
    if provider.id not in ort.get_available_providers():
        return (
            f"{provider.name}: the installed onnxruntime {ort.__version__} has no {provider.id}; "
            f"uninstall it and pip install {provider.package}."
        )
    if provider.name in ("rocm", "migraphx"):
        _set_folders(MIOPEN_CACHES)  # MIOpen may look at them once only, at the first session.
    # The native log would say on stderr what the sentence below says. The level cannot be read,
    # so it is left at that of every session made here: errors.
    ort.set_default_logger_severity(4)
    try:
        landed = inference_session(_one_node_model(), provider.id).get_providers()[0]
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        return f"{provider.name}: {_session_failure(provider, error)}"
    finally:
        ort.set_default_logger_severity(3)
    if landed == provider.id:
        return ""
    lacking = _missing_library(ort, provider)
    if lacking:
        return f"{provider.name}: {provider.id} cannot load {lacking}; install it."
    return f"{provider.name}: {provider.id} fell back to {landed}: no device that it can use."


def _session_failure(provider: Provider, error: Exception) -> str:
    lacking = re.search(r"with error: (\S+): cannot open shared object", str(error))
    if lacking:
        return f"{provider.id} cannot load {lacking[1]}; install it."
    return f"{provider.id} cannot make a session: {first_line(error)}"


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
