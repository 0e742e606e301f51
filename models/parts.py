"""Parts that several families share; each computes what upstream's part of that place does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

TILING_SWITCHES = (
    "use_tiling",
    "use_slicing",
    "use_framewise_decoding",
    "use_framewise_encoding",
)
"""Upstream's switches that code a clip in pieces and blend or join them."""


@contextmanager
def untiled(vae: Any) -> Iterator[None]:
    """A whole clip at once by upstream, whatever its switches say; they are put back."""
    before = {name: getattr(vae, name) for name in TILING_SWITCHES if hasattr(vae, name)}
    for name in before:
        setattr(vae, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def copy_sharing_weights(module: nn.Module) -> nn.Module:
    """A copy whose submodules can be replaced, with the original's own parameters."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def rebuilt(module: nn.Module, kinds: Mapping[type, Callable[[Any], nn.Module]]) -> nn.Module:
    """A copy that shares the weights, its submodules of the given kinds replaced.

    A replacement has its parts replaced as well, where they kept their names.
    """
    copied = copy_sharing_weights(module)
    for name, part in list(copied.named_modules()):  # outer modules come first
        replacement = next((make for kind, make in kinds.items() if isinstance(part, kind)), None)
        if replacement is not None and _still_there(copied, name, part):
            copied.set_submodule(name, replacement(part))
    return copied


def _still_there(module: nn.Module, name: str, part: nn.Module) -> bool:
    try:
        return module.get_submodule(name) is part
    except AttributeError:
        return False


def repeat_axis(x: torch.Tensor, axis: int, times: int) -> torch.Tensor:
    """Every entry along `axis` repeated `times` times in place: a, a, b, b, ..."""
    if times == 1:
        return x
    wide = x.unsqueeze(axis + 1)
    sizes = [-1] * wide.dim()
    sizes[axis + 1] = times
    return wide.expand(sizes).flatten(axis, axis + 1)


def enlarge(x: torch.Tensor, factor: int) -> torch.Tensor:
    """(N, C, T, H, W) -> (N, C, T, factor * H, factor * W), nearest, frame by frame.

    Frames join the batch, because an image is what runtimes enlarge fast.
    """
    if factor == 1:
        return x
    n, c, t, h, w = x.shape
    frames = x.transpose(1, 2).reshape(n * t, c, h, w)
    frames = functional.interpolate(frames, scale_factor=float(factor), mode="nearest")
    return frames.reshape(n, t, c, h * factor, w * factor).transpose(1, 2)


class EdgePadded(nn.Module):
    """A convolution behind frames that repeat the first and the last: one Pad in the graph."""

    def __init__(self, conv: nn.Module, before: int, after: int) -> None:
        super().__init__()
        self.conv = conv
        self._pad = (0, 0, 0, 0, before, after)

    def forward(self, x: torch.Tensor, causal: bool | None = None) -> torch.Tensor:
        """`causal` is there for callers of upstream's; `before` and `after` have settled it."""
        if any(self._pad):
            x = functional.pad(x, self._pad, mode="replicate")
        y: torch.Tensor = self.conv(x)
        return y


class ScaledNorm(nn.Module):
    """x / max(|x|, 1e-12) * scale * gamma over C, with the two factors made one.

    Upstream's `functional.normalize` expands |x| to x's shape; here the division broadcasts.
    """

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        if not upstream.channel_first or isinstance(upstream.bias, nn.Parameter):
            raise ValueError("a norm over channels without bias is expected")
        self.weight = nn.Parameter((upstream.gamma * upstream.scale).detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of (N, C, T, H, W)."""
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
        normed: torch.Tensor = x / norm * self.weight
        return normed


def frames_up_to(frames: int, positions: int) -> torch.Tensor:
    """Which of (T * H*W) positions may see which: those of their own frame and earlier ones.

    Returns:
        bool (frames * positions, frames * positions), rows see columns.
    """
    frame = torch.arange(frames * positions) // positions
    return frame.unsqueeze(1) >= frame.unsqueeze(0)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of one head in plain products; q, k, v are (N, L, C), allowed is (L, L).

    Upstream's `scaled_dot_product_attention` would become some twenty nodes of shape arithmetic.
    """
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1), v)


class OneHeadAttention(nn.Module):
    """diffusers' `Attention` as the older image decoders use it: group norm, one head, residual.

    x is (N, C, ...); all axes behind C are positions.
    """

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        if upstream.heads != 1 or not upstream.residual_connection or upstream.spatial_norm:
            raise ValueError("an attention of one head with a residual connection is expected")
        if upstream.rescale_output_factor != 1:
            raise ValueError("an attention that does not rescale its output is expected")
        self.group_norm = upstream.group_norm
        self.to_q = upstream.to_q
        self.to_k = upstream.to_k
        self.to_v = upstream.to_v
        self.to_out = upstream.to_out

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """`allowed` says which positions may see which, as in `attend`."""
        normed = self.group_norm(x).flatten(2).transpose(1, 2)
        y = attend(self.to_q(normed), self.to_k(normed), self.to_v(normed), allowed)
        out: torch.Tensor = self.to_out[0](y)
        return x + out.transpose(1, 2).reshape(x.shape)
