"""A single file of weights under the names of the original project, or of diffusers.

diffusers knows how to rename the weights of some classes (`from_single_file`), but asks a server
which configuration goes with a file. Here the presets are tried instead: the one whose names and
shapes the renamed weights fit is the one.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import nn

from converter.errors import UserError
from models.base import Family

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")

Tensors = dict[str, torch.Tensor]


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file by name. A pickle is read without running any code of it.

    Raises:
        UserError: it is damaged, or holds anything but tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file, or is truncated: {error}.") from (
                error
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, and reading that would run code of the file: it is "
            "refused. Save the weights as safetensors."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # the unpickler raises whatever bytes that are no pickle lead to
        raise UserError(f"{path} is no file of PyTorch weights, or is truncated.") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no dictionary of tensors.")
    if not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds a dictionary of other things than tensors.")
    return content


def open_single_file(path: Path, families: Iterable[Family]) -> tuple[Family, nn.Module]:
    """The family of the preset that a file fits, and its model with the weights in fp32.

    Raises:
        UserError: it cannot be read, or fits no preset.
    """
    tensors = read_tensors(path)
    nearest: list[tuple[int, str]] = []
    for family in families:
        for preset, config in family.presets.items():
            with torch.device("meta"):
                vae: nn.Module = family.upstream(**config)
            fitting = _renamed(family, tensors, vae)
            missing = [
                name
                for name, weight in vae.state_dict().items()
                if name not in fitting or fitting[name].shape != weight.shape
            ]
            if not missing:
                vae.load_state_dict({n: w.float() for n, w in fitting.items()}, assign=True)
                return family, vae
            nearest.append((len(missing), f"{preset} lacks {len(missing)}, such as {missing[0]}"))
    raise UserError(
        f"{path} fits no preset by the names and shapes of its tensors; the nearest, "
        f"{min(nearest)[1]}. Give a diffusers folder, whose config.json describes it."
    )


def _renamed(family: Family, tensors: Tensors, vae: nn.Module) -> Tensors:
    """The tensors that the model has, under its names."""
    wanted = vae.state_dict().keys()
    known = SINGLE_FILE_LOADABLE_CLASSES.get(family.upstream.__name__)
    named = tensors
    if not wanted <= tensors.keys() and known is not None:
        try:
            named = known["checkpoint_mapping_fn"](checkpoint=dict(tensors))
        except (KeyError, IndexError, ValueError):
            return {}  # Names that diffusers expects of this class are not there.
    return {name: named[name] for name in wanted if name in named}
