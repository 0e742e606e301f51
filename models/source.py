"""From what a user names, a preset or a folder, to a decoder with weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import safetensors
import torch
from torch import nn

from converter.errors import UserError
from converter.origin import AS_UPSTREAM, GraphOptions, Origin
from models.adapted import Adapted, AdaptedEncoder
from models.allegro import ALLEGRO
from models.base import Coder, Decoder, Encoder, Family, Geometry
from models.cogvideox import COGVIDEOX
from models.cosmos import COSMOS
from models.describe import describe
from models.encoders.table import encoder_of
from models.generic import generic_family
from models.hunyuan_video import HUNYUAN_VIDEO
from models.hunyuan_video_15 import HUNYUAN_VIDEO_15
from models.ltx2_video import LTX2_VIDEO
from models.ltx_video import LTX_VIDEO
from models.mochi import MOCHI
from models.qwen_image import QWEN_IMAGE
from models.single_file import SUFFIXES, open_single_file
from models.wan import WAN

FAMILIES = (
    WAN,
    QWEN_IMAGE,
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_15,
    COGVIDEOX,
    LTX_VIDEO,
    LTX2_VIDEO,
    MOCHI,
    COSMOS,
    ALLEGRO,
)

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
WEIGHTS_INDEX = WEIGHTS + ".index.json"

TINY_WAN = "tiny-wan"
"""A preset that comes with weights, in the folder beside this file."""

CONSTANT_SPREAD = 0.1
"""Standard deviation of the noise on seeded weights that upstream starts as all equal."""

NO_MEMORY = "can't allocate memory"
"""In the RuntimeError by which PyTorch says so."""

LAST_LAYER_GAIN = 0.5
"""Factor on the seeded last layer: it keeps the video clear of the final clamp to [-1, 1]."""


@dataclass(frozen=True)
class Opened:
    """A decoder and where it comes from; `seed` is None where the weights were read.

    `encoder` is there where it, not the decoder, is to be exported.
    """

    family: Family
    decoder: Decoder
    seed: int | None
    vae: nn.Module
    origin: Origin
    encoder: Encoder | None = None

    @property
    def coder(self) -> Coder:
        """What is exported: the decoder, unless the encoder was asked for."""
        return self.encoder or self.decoder

    def in_float64(self) -> Coder:
        """A copy of the coder that computes its `reference` in float64."""
        vae = copy.deepcopy(self.vae).double()
        decoder = self.family.wrap(vae)
        if self.encoder is not None:
            return _encoder(vae, decoder.geometry, self.origin)
        return _adapted(decoder, self.origin)

    def adapted(self, options: GraphOptions) -> Opened:
        """The coder with more done in its graph, its weights rounded to how they are stored.

        Raises:
            UserError: there is no encoder or no scale to apply, or a weight is beyond the stored
                type.
        """
        if options == AS_UPSTREAM:
            return self
        if options.denormalize and self.origin.latents is None:
            raise UserError(
                f"latents of {self.family.name} go into decode as they are, by this config: "
                f"leave out --{'normalize' if options.encoder else 'denormalize'}."
            )
        _round_weights(self.vae, options.weights)
        origin = replace(self.origin, graph=options)
        if options.encoder:
            encoder = _encoder(self.vae, self.decoder.geometry, origin)
            return replace(self, encoder=encoder, origin=origin)
        return replace(self, decoder=_adapted(self.family.wrap(self.vae), origin), origin=origin)


def _adapted(decoder: Decoder, origin: Origin) -> Decoder:
    options = origin.graph
    if not options.denormalize and not options.uint8:
        return decoder
    scale = origin.latents if options.denormalize else None
    return Adapted(decoder, scale, uint8=options.uint8)


def _encoder(vae: nn.Module, geometry: Geometry, origin: Origin) -> Encoder:
    encoder, options = encoder_of(vae, geometry), origin.graph
    if not options.denormalize and not options.uint8:
        return encoder
    scale = origin.latents if options.denormalize else None
    return AdaptedEncoder(encoder, scale, uint8=options.uint8)


def _round_weights(vae: nn.Module, weights: str) -> None:
    dtype: torch.dtype = getattr(torch, weights)
    if dtype == torch.float32:
        return
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            weight.copy_(weight.to(dtype))
            if not bool(weight.isfinite().all()):
                raise UserError(f"{name} has values that {weights} does not hold: take bf16.")


def open_source(source: str, seed: int | None) -> Opened:
    """Open a preset by its name, a diffusers VAE folder (or the pipeline around it), or a file.

    A preset, or a folder without weights, gets weights of the given seed.

    Raises:
        UserError: neither of them, no weights and no seed, or weights that do not fit.
    """
    if source == TINY_WAN:
        return _open_folder(Path(__file__).parent / "tiny_wan", seed)
    for family in FAMILIES:
        if source in family.presets:
            if seed is None:
                raise UserError(
                    f"{source} is a published configuration without weights: give --seed 0 for "
                    "random ones, or the folder that holds the real ones."
                )
            return _seeded(family, family.presets[source], seed, what=source)
    folder = Path(source)
    if folder.is_dir():
        return _open_folder(folder, seed)
    if folder.is_file() and folder.suffix in SUFFIXES:
        if seed is not None:
            raise UserError(f"{folder} has weights: leave out --seed, which would replace them.")
        family, vae = open_single_file(folder, FAMILIES)
        return _opened(family, vae, None)
    presets = ", ".join([TINY_WAN, *(name for family in FAMILIES for name in family.presets)])
    raise UserError(
        f"{source} is no folder, no weights file ({', '.join(SUFFIXES)}) and no preset; a folder "
        f"holds {CONFIG} and {WEIGHTS}, the presets are {presets}."
    )


def _open_folder(folder: Path, seed: int | None) -> Opened:
    if not (folder / CONFIG).is_file() and (folder / "vae" / CONFIG).is_file():
        folder = folder / "vae"
    config = _read_json(folder / CONFIG)
    family = _family_of(config, folder / CONFIG)
    files = _weight_files(folder)
    if files and seed is not None:
        raise UserError(f"{folder} has weights: leave out --seed, which would replace them.")
    if not files and seed is None:
        raise UserError(
            f"{folder} has a {CONFIG} but no {WEIGHTS}: add it, or give --seed 0 for random "
            "weights."
        )
    if seed is not None:
        return _seeded(family, config, seed, what=str(folder / CONFIG))
    with torch.device("meta"):
        expected = _build(family, config, str(folder / CONFIG)).state_dict()
    _check_weights(folder, family, files, expected)
    vae = family.upstream.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
    )
    return _opened(family, vae, None)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: {path.parent} is not a diffusers VAE folder.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.")
    return content


def _family_of(config: Mapping[str, Any], path: Path) -> Family:
    name = config.get("_class_name")
    for family in FAMILIES:
        if family.upstream.__name__ == name:
            return family
    known = ", ".join(family.upstream.__name__ for family in FAMILIES)
    if name is None:
        raise UserError(f"{path} does not name its class under _class_name; known are {known}.")
    generic = generic_family(name) if isinstance(name, str) else None
    if generic is None:
        raise UserError(
            f"{path} is of class {name}, which is no autoencoder of diffusers "
            f"{diffusers.__version__} with a decode; best known are {known}."
        )
    return generic


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the weights; empty where there are none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return []
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map.")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{index} names files that are not there: {', '.join(missing)}.")
    return files


def _check_weights(
    folder: Path, family: Family, files: list[Path], expected: Mapping[str, torch.Tensor]
) -> None:
    """Compare names and shapes with the model's, reading the files' headers only."""
    found = dict(item for file in files for item in _header(file))
    complaints = []
    for name, tensor in expected.items():
        needed = _show(tensor.shape)
        if name not in found:
            complaints.append(f"{name} is missing ({needed})")
        elif found[name] != tuple(tensor.shape):
            complaints.append(f"{name} is {_show(found[name])} where {needed} is needed")
    if complaints:
        raise UserError(
            f"the weights in {folder} do not fit {family.upstream.__name__} as its {CONFIG} "
            f"describes it, in {len(complaints)} tensors:\n  " + "\n  ".join(complaints)
        )


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        with safetensors.safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                yield name, tuple(tensors.get_slice(name).get_shape())
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} is not a safetensors file, or is truncated: {error}.") from error


def _seeded(family: Family, config: Mapping[str, Any], seed: int, what: str) -> Opened:
    """Upstream's own initialization under a seed, made fit for comparing two ways to compute.

    Weights that start as all ones or zeros would hide a mistake in their use, so they get noise.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        vae = _build(family, config, what)
        for weight in vae.parameters():
            if weight.numel() > 1 and bool((weight == weight.flatten()[0]).all()):
                weight.add_(torch.randn_like(weight) * CONSTANT_SPREAD)
        if family.last_layer is not None:
            for weight in vae.get_submodule(family.last_layer).parameters():
                weight.mul_(LAST_LAYER_GAIN)
    return _opened(family, vae, seed)


def _opened(family: Family, vae: nn.Module, seed: int | None) -> Opened:
    decoder = family.wrap(vae)
    return Opened(family, decoder, seed, vae, describe(vae, decoder.geometry))


def _build(family: Family, config: Mapping[str, Any], what: str) -> nn.Module:
    diffusers.utils.logging.set_verbosity_error()
    try:
        vae: nn.Module = family.upstream.from_config(dict(config))
    except Exception as error:  # upstream's constructors raise whatever a wrong value leads to
        if isinstance(error, MemoryError) or NO_MEMORY in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{what} does not describe an {family.upstream.__name__}: {reason}.") from (
            error
        )
    return vae


def _show(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
