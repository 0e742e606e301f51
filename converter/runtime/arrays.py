"""Tensors of the caller's library as NumPy arrays, and frames back as that library's tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.errors import UserError
from converter.session import Array, Session


@dataclass(frozen=True)
class Library:
    """How frames go back to whoever gave the latent.

    Attributes:
        of_value: From an `OrtValue`, without a copy where the library can share its memory.
        of_array: From a NumPy array.
    """

    of_value: Callable[[Any], Any]
    of_array: Callable[[Array], Any]


def to_numpy(tensor: Any) -> Array:
    """A NumPy array, PyTorch tensor or other DLPack tensor as a NumPy array in the host's memory.

    Raises:
        UserError: it is none of them.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    torch = _torch_of(tensor)
    if torch is not None:
        host = tensor.detach().cpu()
        # NumPy has no bfloat16; float32 holds each of its values.
        array: Array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
        return array
    if hasattr(tensor, "__dlpack__"):
        return np.from_dlpack(tensor)
    raise UserError(
        f"a latent is a NumPy array or a tensor that offers DLPack, not a {type(tensor).__name__}."
    )


def library_of(tensor: Any) -> Library:
    """PyTorch for its tensors, on their device; NumPy, which offers DLPack, for all others."""
    torch = _torch_of(tensor)
    if torch is None:
        return Library(Session.array, lambda array: array)
    device = tensor.device
    return Library(
        lambda value: torch.from_dlpack(Session.dlpack(value)).to(device),
        lambda array: torch.from_numpy(array).to(device),
    )


def _torch_of(tensor: Any) -> Any:
    """The PyTorch that `tensor` is of; not imported unless the caller has done so."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(tensor, torch.Tensor) else None
