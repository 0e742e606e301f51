"""What an exportable video autoencoder offers, whatever its family.

A family (one file each beside this one) wraps the upstream model and says how its `decode` becomes
one graph; its file in `models/encoders/` says the same of `encode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from models.parts import untiled

Shape = tuple[int, int, int, int, int]
"""(N, C, T, H, W)."""


FrameRule = Literal["first alone", "first alone if odd", "every"]
"""Which latent frame makes one frame of video instead of `time`: the first; or the first where
T is odd; or none."""


@dataclass(frozen=True)
class Geometry:
    """How a latent (N, channels, T, H, W) maps to a video (N, video_channels, T', H', W').

    A causal decoder makes one frame of the first latent frame and `time` of every other:
    T' = (T - 1) * time + 1, H' = H * space, W' = W * space. `frames` says where that differs.
    `least` is the smallest H and W that it takes.
    """

    channels: int
    video_channels: int
    time: int
    space: int
    frames: FrameRule = "first alone"
    least: int = 1

    def rule(self) -> str:
        """The sizes of the video as a formula."""
        return f"T' = {self.frame_rule()}, H' = H * {self.space}, W' = W * {self.space}"

    def frame_rule(self) -> str:
        """T' as a formula."""
        alone, every = f"(T - 1) * {self.time} + 1", f"T * {self.time}"
        rules = {
            "first alone": alone,
            "first alone if odd": f"{alone} where T is odd, else {every}",
            "every": every,
        }
        return rules[self.frames]

    def video_shape(self, latent: Shape) -> Shape:
        """The shape a latent decodes to; raises ValueError naming the axis that does not fit."""
        n, c, t, h, w = latent
        if c != self.channels:
            raise ValueError(f"C is {c}, but this decoder's latents have {self.channels} channels")
        smallest = (("N", n, 1), ("T", t, 1), ("H", h, self.least), ("W", w, self.least))
        for axis, size, least in smallest:
            if size < least:
                raise ValueError(f"{axis} is {size}, but must be at least {least}")
        return n, self.video_channels, self._video_frames(t), h * self.space, w * self.space

    def _video_frames(self, t: int) -> int:
        alone = self.frames == "first alone" or (self.frames == "first alone if odd" and t % 2 == 1)
        return (t - 1) * self.time + 1 if alone else t * self.time

    def latent_shape(self, video: Shape) -> Shape:
        """The latent that decodes to a video of that shape; raises ValueError as `video_shape`."""
        n, c, t, h, w = video
        if c != self.video_channels:
            raise ValueError(f"C is {c}, but this encoder's videos have {self.video_channels}")
        for axis, size in (("H", h), ("W", w)):
            if size < 1 or size % self.space:
                raise ValueError(f"{axis} is {size}, but must be a multiple of {self.space}")
        near = (t // self.time, t // self.time + 1)
        frames = next((f for f in near if f > 0 and self._video_frames(f) == t), None)
        if frames is None:
            rules = {
                "first alone": f"1 more than a multiple of {self.time}, as 1 is",
                "first alone if odd": f"a multiple of {2 * self.time} or 1 more, as 1 is",
                "every": f"a multiple of {self.time}",
            }
            raise ValueError(f"T is {t}, but must be {rules[self.frames]}")
        latent = n, self.channels, frames, h // self.space, w // self.space
        self.video_shape(latent)
        return latent


@dataclass(frozen=True)
class Cache:
    """The frames that one causal convolution saw last, handed from chunk to chunk.

    Attributes:
        name: Path of the convolution in the exported module.
        channels, frames, scale: For a latent of H x W its shape is
            (N, channels, frames, H * scale, W * scale).
    """

    name: str
    channels: int
    frames: int
    scale: int


@dataclass(frozen=True)
class Stream:
    """A decoder that takes `chunk` latent frames at a time and keeps a cache a convolution.

    Attributes:
        first: latent (N, C, chunk + lead, H, W) -> (video, list of caches), where a clip begins.
        next: (latent, list of caches) -> (video, list of caches), after it. The video has
            `chunk * time` frames.
        caches: What the lists hold, in order.
        lead: Latent frames that `first` takes more than `next`.
        multiple: Latents have T = lead + a positive multiple of this.
    """

    chunk: int
    first: nn.Module
    next: nn.Module
    caches: tuple[Cache, ...]
    lead: int = 0
    multiple: int = 1


@dataclass(frozen=True)
class Sizes:
    """What an open axis may be: factor * k + offset for any k >= 1, which is called `name`."""

    name: str
    factor: int = 1
    offset: int = 0

    def __str__(self) -> str:
        """As PyTorch's exporter writes it, such as 4*T - 3."""
        multiple = self.name if self.factor == 1 else f"{self.factor}*{self.name}"
        return f"{multiple} - {-self.offset}" if self.offset else multiple


class Coder(ABC):
    """One direction of an upstream model with its weights, ready to be exported."""

    geometry: Geometry

    @abstractmethod
    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """Upstream's own, unmodified function: what every exported form must equal."""

    @abstractmethod
    def clip(self, *, dynamic: bool) -> nn.Module:
        """A module of what `reference` computes for a whole clip, whose trace does not grow with T.

        With `dynamic`, one trace is right for all `sizes`; else for those it was made with. It
        shares its weights with the upstream model, which stays as it was.
        """

    @abstractmethod
    def sizes(self) -> dict[int, Sizes]:
        """The axes of the input that a dynamic graph leaves open."""

    @abstractmethod
    def example(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """A random input such as the graph is meant for."""


class Decoder(Coder):
    """Latent (N, C, T, H, W) -> video (N, 3, T', H', W')."""

    @abstractmethod
    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's own, unmodified `decode`: what every exported form must equal."""

    @abstractmethod
    def clip(self, *, dynamic: bool) -> nn.Module:
        """A module latent -> video for a whole clip, whose trace does not grow with T.

        With `dynamic`, one trace is right for every T, H, W >= 1; else for the sizes it was made
        with. It shares its weights with the upstream model, which stays as it was.
        """

    def sizes(self) -> dict[int, Sizes]:
        """T, H and W are free."""
        return {2: Sizes("T"), 3: Sizes("H"), 4: Sizes("W")}

    def example(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """A latent of the normal distribution."""
        return torch.randn(shape, generator=generator)

    def stream(self, chunk: int) -> Stream | None:
        """Two modules that decode a clip of any length, `chunk` >= 1 latent frames at a time.

        What they make, put together, equals `reference` of the whole clip. None where upstream's
        `decode` looks at frames to come, so that there is no such form.
        """
        return None


class Encoder(Coder):
    """Video (N, 3, T', H', W') of -1 to 1 -> the mean of its latents (N, C, T, H, W).

    Args:
        vae: The upstream model.
        geometry: Of its decoder, which the encoder inverts.
    """

    def __init__(self, vae: Any, geometry: Geometry) -> None:
        self._vae = vae.eval()
        self.geometry = geometry

    def reference(self, video: torch.Tensor) -> torch.Tensor:
        """Upstream's own, unmodified `encode`: the mode of the distribution, which is its mean."""
        with untiled(self._vae):
            mode: torch.Tensor = self._vae.encode(video).latent_dist.mode()
        return mode

    def latent_shape(self, video: Shape) -> Shape:
        """The shape a video encodes to; raises ValueError naming the axis that does not fit."""
        return self.geometry.latent_shape(video)

    def sizes(self) -> dict[int, Sizes]:
        """Those of videos, by the latent's T, H and W."""
        time, space = self.geometry.time, self.geometry.space
        first = 0 if self.geometry.frames == "every" else 1 - time
        return {2: Sizes("T", time, first), 3: Sizes("H", space), 4: Sizes("W", space)}

    def example(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """A video whose pixels are uniform in -1 to 1."""
        return torch.rand(shape, generator=generator) * 2 - 1


@dataclass(frozen=True)
class Family:
    """The decoders of one upstream class.

    Attributes:
        name: What people call it.
        upstream: The diffusers class; a config.json names it as `_class_name`.
        wrap: Makes a `Decoder` of an instance of `upstream`.
        presets: Published configurations, by the name that a user types.
        last_layer: The convolution whose output becomes the pixels, as a path in `upstream`; None
            where it is not known.
    """

    name: str
    upstream: type[Any]
    wrap: Callable[[Any], Decoder]
    presets: Mapping[str, Mapping[str, Any]]
    last_layer: str | None
