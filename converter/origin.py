"""What a runtime needs to know of the decoder that a graph was made of; JSON inside its file.

An exported graph carries it in `metadata_props` under `KEY`, a manifest under `origin`. Reading it
needs neither PyTorch nor diffusers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from converter.errors import UserError

KEY = "export_vae.origin"
VERSION = 1


@dataclass(frozen=True)
class LatentScale:
    """The decoder's latent is the pipeline's times `std` plus `mean`, by channel.

    Attributes:
        mean, std: One number a channel; or, for Cosmos, one a channel and latent frame, the first
            frame of a clip being the first.
    """

    mean: list[Any]
    std: list[Any]


@dataclass(frozen=True)
class GraphOptions:
    """How the graph differs from upstream's `decode`, or `encode`.

    Attributes:
        denormalize: The latent is the pipeline's: `LatentScale` is applied in the graph, or undone
            by an encoder's.
        uint8: The video is uint8 (N, T, H, W, 3) of 0 to 255, not (N, 3, T, H, W) of -1 to 1.
        encoder: The graph is the encoder: a video goes in, the mean of the latent's distribution
            comes out.
        weights: Type in which the weights are stored: `float32`, `float16` or `bfloat16`.
    """

    denormalize: bool = False
    uint8: bool = False
    encoder: bool = False
    weights: str = "float32"


AS_UPSTREAM = GraphOptions()


@dataclass(frozen=True)
class Origin:
    """An upstream autoencoder, and how a graph was made of it.

    Attributes:
        class_name: Of the class in diffusers.
        diffusers: Version of diffusers.
        config: All arguments of upstream's constructor.
        attributes: What upstream sets on its instances beside the config: tile sizes and strides,
            switches of tiling and slicing, compression ratios. Those of its defaults.
        channels, video_channels: C of the latent and of the video.
        time, space, frames, least: How sizes map: T' = (T - 1) * time + 1 where `frames` is
            `first alone`, T * time where it is `every`; `first alone if odd` is the former for odd
            T. H' = H * space, W' = W * space; H and W are at least `least`.
        latents: The scale of latents; None where upstream's pipelines apply none.
        graph: How the graph differs from upstream's `decode`.
    """

    class_name: str
    diffusers: str
    config: Mapping[str, Any]
    attributes: Mapping[str, Any]
    channels: int
    video_channels: int
    time: int
    space: int
    frames: str
    least: int
    latents: LatentScale | None = None
    graph: GraphOptions = AS_UPSTREAM

    def video_frames(self, count: int) -> int:
        """T' of a latent of `count` frames."""
        alone = self.frames == "first alone" or (self.frames != "every" and count % 2 == 1)
        return (count - 1) * self.time + 1 if alone else count * self.time

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary that `from_json` reads."""
        return {"version": VERSION, **asdict(self)}


class Entry(Protocol):
    """One of `metadata_props`."""

    key: str
    value: str


def from_json(data: object, where: str) -> Origin:
    """Read what `Origin.to_json` made; keys that are not known are ignored.

    Raises:
        UserError: it is of another version, or damaged; names `where` it stood.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: the origin is not a JSON object.")
    if data.get("version") != VERSION:
        raise UserError(
            f"{where}: the origin has version {data.get('version')}; this program reads {VERSION}."
        )
    try:
        latents, graph = data["latents"], data["graph"]
        sizes = ("channels", "video_channels", "time", "space", "least")
        return Origin(
            class_name=str(data["class_name"]),
            diffusers=str(data["diffusers"]),
            config=dict(data["config"]),
            attributes=dict(data["attributes"]),
            frames=str(data["frames"]),
            **{name: int(data[name]) for name in sizes},
            latents=latents and LatentScale(list(latents["mean"]), list(latents["std"])),
            graph=GraphOptions(
                denormalize=bool(graph["denormalize"]),
                uint8=bool(graph["uint8"]),
                encoder=bool(graph["encoder"]),
                weights=str(graph["weights"]),
            ),
        )
    except KeyError as error:
        raise UserError(f"{where}: the origin lacks {error}.") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the origin is damaged: {error}.") from error


def of_metadata(entries: Iterable[Entry], where: str) -> Origin | None:
    """The origin among a model's `metadata_props`; None where there is none.

    Raises:
        UserError: as `from_json`, or it is not JSON.
    """
    return of_text(next((entry.value for entry in entries if entry.key == KEY), None), where)


def of_text(text: str | None, where: str) -> Origin | None:
    """The origin as it stands under `KEY`; None where nothing does. Raises as `of_metadata`."""
    if text is None:
        return None
    try:
        return from_json(json.loads(text), where)
    except ValueError as error:
        raise UserError(f"{where}: the origin is not JSON: {error}.") from error
