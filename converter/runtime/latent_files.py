"""Latents in files, and which of a folder there are."""

from __future__ import annotations

from pathlib import Path

from converter import array_files
from converter.errors import UserError
from converter.session import Array

NAMES = ("", "latent", "latents", "z", "samples")
"""What a latent is called in a file of several arrays, the first that is there; "" is nameless."""


def read_latent(path: Path, name: str | None = None) -> Array:
    """The latent (1, C, T, H, W) of a file.

    Args:
        path: An .npy, .npz, .safetensors, .pt or .pth file.
        name: Which array; by default the only one, or one of `NAMES`.

    Raises:
        UserError: the file is not readable, or does not hold one such array.
    """
    arrays = array_files.read_arrays(path)
    if name is None:
        known = [*arrays] if len(arrays) == 1 else [n for n in NAMES if n in arrays]
        if not known:
            raise UserError(
                f"{path} holds {', '.join(map(repr, arrays))}: say by --name which is the latent."
            )
        name = known[0]
    elif name not in arrays:
        raise UserError(f"{path} holds no {name!r}, but {', '.join(map(repr, arrays))}.")
    latent = arrays[name]
    if latent.ndim != 5 or latent.shape[0] != 1:
        raise UserError(
            f"{path} holds an array of shape {latent.shape}; a latent is (1, C, T, H, W)."
        )
    return latent


def list_latents(folder: Path) -> list[Path]:
    """The files of a folder that may hold latents, by name.

    Raises:
        UserError: there are none, or two differ only by their suffix.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix in array_files.SUFFIXES and p.is_file())
    if not paths:
        raise UserError(f"{folder} holds no file of {', '.join(array_files.SUFFIXES)}.")
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise UserError(
                f"{seen[path.stem]} and {path.name} would become one video; rename one."
            )
        seen[path.stem] = path
    return paths
