"""Coders whose graph has the pipeline's latents, or pixels as they are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from converter.errors import UserError
from converter.origin import LatentScale
from models.base import Decoder, Encoder, Shape, Sizes, Stream


class Adapted(Decoder):
    """Another decoder with more done in the graph.

    Args:
        inner: The decoder.
        scale: Applied to the latent first, as upstream's pipelines do; None for a latent as
            `decode` takes it.
        uint8: Make uint8 (N, T, H, W, 3) as `diffusers.video_processor` does: clamped to -1 to 1,
            scaled to 0 to 255, rounded.
    """

    def __init__(self, inner: Decoder, scale: LatentScale | None, *, uint8: bool) -> None:
        self._inner = inner
        self.geometry = inner.geometry
        self._scale = scale
        self._uint8 = uint8

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's decode of the scaled latent, a float video in any case."""
        return self._inner.reference(_Scaled(self._scale)(latent))

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The inner clip between what is added."""
        return _Adapter(self._inner.clip(dynamic=dynamic), self._scale, uint8=self._uint8).eval()

    def stream(self, chunk: int) -> Stream | None:
        """The inner stream between what is added.

        Raises:
            UserError: the scale is another for each frame of a clip, which a chunk cannot know.
        """
        stream = self._inner.stream(chunk)
        if stream is None:
            return None
        if self._scale is not None and isinstance(self._scale.mean[0], list):
            raise UserError("this scale of latents differs by frame: leave out --denormalize.")
        return replace(
            stream,
            first=_Adapter(stream.first, self._scale, uint8=self._uint8).eval(),
            next=_Adapter(stream.next, self._scale, uint8=self._uint8).eval(),
        )


class AdaptedEncoder(Encoder):
    """Another encoder with more done in the graph.

    Args:
        inner: The encoder.
        scale: Undone in the latent, as upstream's pipelines do; None for a latent as `encode`
            returns it.
        uint8: Take uint8 (N, T, H, W, 3) of 0 to 255, and scale it to -1 to 1 as
            `diffusers.video_processor` does.
    """

    def __init__(self, inner: Encoder, scale: LatentScale | None, *, uint8: bool) -> None:
        self._inner = inner
        self.geometry = inner.geometry
        self._scale = scale
        self._uint8 = uint8

    def reference(self, video: torch.Tensor) -> torch.Tensor:
        """The scale undone in upstream's encode."""
        latent = self._inner.reference(_from_pixels(video) if self._uint8 else video)
        normalized: torch.Tensor = _Scaled(self._scale, undo=True)(latent)
        return normalized

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The inner clip between what is added."""
        inner = self._inner.clip(dynamic=dynamic)
        return _EncoderAdapter(inner, self._scale, uint8=self._uint8).eval()

    def latent_shape(self, video: Shape) -> Shape:
        """The inner one's, of (N, 3, T, H, W)."""
        return self._inner.latent_shape(video)

    def sizes(self) -> dict[int, Sizes]:
        """The inner one's; pixels have channels last."""
        moved = 1 if self._uint8 else 0
        return {axis - moved: sizes for axis, sizes in self._inner.sizes().items()}

    def example(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        """The inner one's, or random pixels; `shape` is (N, 3, T, H, W)."""
        if not self._uint8:
            return self._inner.example(shape, generator)
        n, c, *sizes = shape
        return torch.randint(256, (n, *sizes, c), generator=generator, dtype=torch.uint8)


def _from_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """(N, T, H, W, 3) of 0 to 255 -> (N, 3, T, H, W) of -1 to 1, in fp32 if they are bytes."""
    levels = pixels.float() if pixels.dtype == torch.uint8 else pixels
    return levels.permute(0, 4, 1, 2, 3) / 255 * 2 - 1


class _EncoderAdapter(nn.Module):
    def __init__(self, inner: nn.Module, scale: LatentScale | None, *, uint8: bool) -> None:
        super().__init__()
        self.inner = inner
        self.scale = _Scaled(scale, undo=True)
        self._uint8 = uint8

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        latent: torch.Tensor = self.scale(self.inner(_from_pixels(video) if self._uint8 else video))
        return latent


class _Scaled(nn.Module):
    """latent * std + mean by channel, or channel and frame; with `undo` (latent - mean) / std."""

    def __init__(self, scale: LatentScale | None, *, undo: bool = False) -> None:
        super().__init__()
        self._undo = undo
        self._scale = None
        if scale is not None:
            # (1, C, 1 or F, 1, 1)
            std, mean = (torch.tensor(values) for values in (scale.std, scale.mean))
            self._scale = tuple(v.reshape(1, len(v), -1, 1, 1) for v in (std, mean))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        if self._scale is None:
            return latent
        std, mean = (value.to(latent.dtype) for value in self._scale)
        if std.shape[2] > 1:
            std, mean = (value[:, :, : latent.shape[2]] for value in (std, mean))
        return (latent - mean) / std if self._undo else latent * std + mean


class _Adapter(nn.Module):
    def __init__(self, inner: nn.Module, scale: LatentScale | None, *, uint8: bool) -> None:
        super().__init__()
        self.inner = inner
        self.scale = _Scaled(scale)
        self._uint8 = uint8

    def forward(self, latent: torch.Tensor, *caches: Any) -> Any:
        made = self.inner(self.scale(latent), *caches)
        if isinstance(made, tuple):
            return self._pixels(made[0]), made[1]
        return self._pixels(made)

    def _pixels(self, video: torch.Tensor) -> torch.Tensor:
        if not self._uint8:
            return video
        levels = (video / 2 + 0.5).clamp(0, 1) * 255
        return torch.round(levels).to(torch.uint8).permute(0, 2, 3, 4, 1)
