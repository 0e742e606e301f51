"""Parts that the encoders of several families share."""

from __future__ import annotations

import torch
from torch import nn


class MeanOf(nn.Module):
    """Video -> the first `channels` of what an encoder makes: the mean, before the variance."""

    def __init__(
        self, encoder: nn.Module, channels: int, quant_conv: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quant_conv = quant_conv
        self._channels = channels

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(N, 3, T', H', W') -> (N, C, T, H, W)."""
        moments: torch.Tensor = self.encoder(video)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments[:, : self._channels]


def mean_of_pairs(x: torch.Tensor) -> torch.Tensor:
    """(N, C, 2T, H, W) -> (N, C, T, H, W), the mean of two frames after one another."""
    n, c, t, h, w = x.shape
    return x.reshape(n, c, t // 2, 2, h, w).mean(dim=3)
