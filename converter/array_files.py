"""Named arrays in files: .npy, .npz, .safetensors and .pt."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import UserError
from converter.session import Array

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; a nameless one is called "".

    Raises `UserError` if the file is missing, unreadable, of another kind, or holds no array.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file.")
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pt": _read_pt,
        ".pth": _read_pt,
    }
    if path.suffix not in readers:
        raise UserError(f"{path} is none of {', '.join(SUFFIXES)}.")
    try:
        arrays = readers[path.suffix](path)
    except UserError:
        raise
    except (Exception, SystemError) as error:  # each library has exceptions of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = f"{path} is not a readable {path.suffix} file"
        raise UserError(f"{kind}: {reason.rstrip('.')}.") from error
    if not arrays:
        raise UserError(f"{path} holds no array.")
    return arrays


def _read_npy(path: Path) -> dict[str, Array]:
    return {"": np.load(path, allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_safetensors(path: Path) -> dict[str, Array]:
    module = _library("safetensors.numpy", "safetensors", "report")
    arrays: dict[str, Array] = module.load_file(path)
    return arrays


def _read_pt(path: Path) -> dict[str, Array]:
    torch = _library("torch", "PyTorch", "export")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's own sentence advises to run the code
        kind = f"{path} is not a readable {path.suffix} file"
        raise UserError(f"{kind}: it is damaged, or holds more than tensors.") from error
    tensors = loaded if isinstance(loaded, dict) else {"": loaded}
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UserError(f"{path} holds something else than a tensor or a dictionary of tensors.")
    return {str(name): _to_numpy(tensor, torch) for name, tensor in tensors.items()}


def _to_numpy(tensor: Any, torch: Any) -> Array:
    plain = tensor.detach()
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array


def _library(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"reading this file needs {package}; install it by pip install 'convert-vae[{extra}]'."
        ) from error
