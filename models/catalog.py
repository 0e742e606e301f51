"""The presets in figures: what `export-vae --list` shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.base import Decoder, Family
from models.encoders.table import ENCODERS
from models.source import FAMILIES, TINY_WAN, open_source


@dataclass(frozen=True)
class Entry:
    """One preset: its family, latent channels, least H and W, sizes of the video, forms, weights.

    `frames` is T' as a formula; H' and W' are H and W times `space`.
    """

    preset: str
    family: str
    channels: int
    least: int
    frames: str
    space: int
    stream: bool
    encoder: bool
    parameters: int


def entries() -> Iterator[Entry]:
    """Every preset, in the order of the families, made without memory for weights; then the one
    that comes with weights.
    """
    for family in FAMILIES:
        for preset, config in family.presets.items():
            with torch.device("meta"):
                decoder = family.wrap(family.upstream(**config))
            yield _entry(preset, family, decoder)
    trained = open_source(TINY_WAN, None)
    yield _entry(TINY_WAN, trained.family, trained.decoder)


def _entry(preset: str, family: Family, decoder: Decoder) -> Entry:
    return Entry(
        preset=preset,
        family=family.name,
        channels=decoder.geometry.channels,
        least=decoder.geometry.least,
        frames=decoder.geometry.frame_rule(),
        space=decoder.geometry.space,
        stream=type(decoder).stream is not Decoder.stream,
        encoder=family.upstream in ENCODERS,
        parameters=sum(w.numel() for w in decoder.clip(dynamic=False).parameters()),
    )
