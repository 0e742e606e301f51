"""A clip's decoder made to take chunk after chunk: its causal convolutions remember frames.

The frames that a convolution saw last are handed to it from outside and taken from it, as inputs
and outputs of the chunk's module. In between they are attributes of the convolution, because
upstream's code between the two has no argument for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from models.base import Cache, Stream

PROBE = 2
"""H and W of the latent that tells the shapes of caches; norms take no single pixel."""


class RepeatFirst(nn.Module):
    """A causal convolution that sees the first frame repeated before a clip.

    Args:
        conv: Pads neither T nor the edges below.
        frames: How many frames before its own it sees; Kt - 1.
        edges: How often the edges are repeated, (left, right, top, bottom).
    """

    def __init__(self, conv: nn.Module, frames: int, edges: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.conv = conv
        self.frames = frames
        self._edges = edges if any(edges) else ()
        self.before: torch.Tensor | None = None
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, conv_cache: None = None) -> tuple[torch.Tensor, None]:
        """(N, C, T, H, W) -> (N, O, T, H, W), and None in the place of upstream's cache."""
        before = self.before
        if before is None:
            before = x[:, :, :1].expand(-1, -1, self.frames, -1, -1)
        x = torch.cat([before, x], dim=2)
        self.seen = x[:, :, -self.frames :]
        if self._edges:
            x = functional.pad(x, (*self._edges, 0, 0), mode="replicate")
        return self.conv(x), None


class Chunk(nn.Module):
    """Some latent frames of a clip, after those that the caches remember; without caches the first.

    Args:
        clip: Latent -> video, with `RepeatFirst` in the place of its causal convolutions.
        drop: Frames at the begin of a clip that are no part of the video.
    """

    def __init__(self, clip: nn.Module, drop: int = 0) -> None:
        super().__init__()
        self.clip = clip
        self._drop = drop

    def remembering(self) -> dict[str, RepeatFirst]:
        """The convolutions that look back in time, by their paths in the clip."""
        parts = self.clip.named_modules()
        return {name: part for name, part in parts if isinstance(part, RepeatFirst)}

    def forward(
        self, latent: torch.Tensor, caches: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The video of the chunk, and the caches for the next one."""
        convs = list(self.remembering().values())
        try:
            if caches is not None:
                for conv, cache in zip(convs, caches, strict=True):
                    conv.before = cache
            video = self.clip(latent)
            seen = [conv.seen for conv in convs if conv.seen is not None]
        finally:
            for conv in convs:
                conv.before = conv.seen = None
        return video if caches is not None else video[:, :, self._drop :], seen


def stream_of(
    make: Callable[[], Chunk], channels: int, chunk: int, *, lead: int = 0, multiple: int = 1
) -> Stream:
    """The stream of a `Chunk`; the other arguments as in `models.base.Stream`."""
    module = make().eval()
    with torch.inference_mode():
        _, caches = module(torch.zeros(1, channels, chunk + lead, PROBE, PROBE))
    return Stream(
        chunk=chunk,
        first=module,
        next=module,
        caches=tuple(
            Cache(name, cache.shape[1], cache.shape[2], cache.shape[3] // PROBE)
            for name, cache in zip(module.remembering(), caches, strict=True)
        ),
        lead=lead,
        multiple=multiple,
    )
