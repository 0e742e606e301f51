"""Wan 2.1 and Wan 2.2 TI2V-5B: `AutoencoderKLWan` of diffusers.

Upstream (`AutoencoderKLWan._decode`) decodes one latent frame at a time and carries, for each
causal convolution, the frames it saw last. A trace of that loop grows with T. Over the whole clip
at once every part of the decoder gives the same values, but for two rules of `WanResample`:

- the first latent frame is not doubled in time (its cache begins as the marker "Rep");
- what `time_conv` sees before the second latent frame is zeros, not the first frame.

`DupUp3D`, the shortcut of Wan 2.2, has the first rule already, as its argument `first_chunk`.

The stream form runs upstream's code with upstream's list of caches (`feat_cache`), but on several
latent frames at once, and with caches that always have two frames: zeros stand for frames before
the clip, as upstream's padding would.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanRMS_norm,
    unpatchify,
)
from torch import nn
from torch.nn import functional

from models.base import Cache, Decoder, Family, Geometry, Stream
from models.parts import ScaledNorm, rebuilt, untiled


class WanDecoder(Decoder):
    """See `models.base.Decoder`."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae.eval()
        config = vae.config
        patch = config.patch_size or 1
        self.geometry = Geometry(
            channels=config.z_dim,
            video_channels=config.out_channels // patch**2,
            time=2 ** sum(config.temperal_downsample),
            space=2 ** (len(config.dim_mult) - 1) * patch,
        )

    def reference(self, latent: torch.Tensor) -> torch.Tensor:
        """Upstream's loop over the latent frames."""
        with untiled(self._vae):
            video: torch.Tensor = self._vae.decode(latent).sample
        return video

    def clip(self, *, dynamic: bool) -> nn.Module:
        """The whole clip at once."""
        return _Clip(self._vae, partial(_Upsample, dynamic=dynamic)).eval()

    def stream(self, chunk: int) -> Stream:
        """Upstream's loop, `chunk` latent frames a turn, with its caches as inputs and outputs."""
        module = _Chunk(self._vae, _StreamUpsample).eval()
        with torch.inference_mode():
            _, caches = module(torch.zeros(1, self.geometry.channels, chunk, 1, 1))
        shapes = [cache.shape for cache in caches]
        return Stream(
            chunk=chunk,
            first=module,
            next=module,
            caches=tuple(
                Cache(name, channels, frames, scale)
                for name, (_, channels, frames, scale, _) in zip(module.cached, shapes, strict=True)
            ),
        )


class _Clip(nn.Module):
    """The steps of `AutoencoderKLWan._decode` without its loop.

    The decoder is a copy of upstream's, so its modules run upstream's code and lend their names to
    the graph; the few kinds replaced below keep the names, too.
    """

    def __init__(self, vae: AutoencoderKLWan, upsample: Callable[[WanResample], nn.Module]) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        kinds = {
            WanResample: upsample,
            WanAttentionBlock: FrameAttention,
            WanRMS_norm: ScaledNorm,
        }
        self.decoder = rebuilt(vae.decoder, kinds)
        self._patch_size = vae.config.patch_size or 1

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self._pixels(self.decoder(self.post_quant_conv(latent), first_chunk=True))

    def _pixels(self, video: torch.Tensor) -> torch.Tensor:
        return torch.clamp(unpatchify(video, self._patch_size), -1.0, 1.0)


class _Chunk(_Clip):
    """Some latent frames of a clip, after those that the caches remember; without caches the first.

    Upstream counts its caches in the order in which the convolutions run, which is the order in
    which they are registered.
    """

    @property
    def cached(self) -> list[str]:
        """The convolutions that look back in time."""
        return [
            name
            for name, module in self.named_modules()
            if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1
        ]

    def forward(  # type: ignore[override]
        self, latent: torch.Tensor, caches: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        feat_cache = [None] * len(self.cached) if caches is None else list(caches)
        x = self.post_quant_conv(latent)
        video = self.decoder(x, feat_cache=feat_cache, feat_idx=[0], first_chunk=caches is None)
        return self._pixels(video), [_seen_last(cache) for cache in feat_cache]


def _seen_last(x: torch.Tensor | None, history: torch.Tensor | None = None) -> torch.Tensor:
    """The last `CACHE_T` of the frames `history` and `x`; zeros stand for those before a clip."""
    assert x is not None
    if history is not None:
        x = torch.cat([history, x], dim=2)
    missing = CACHE_T - x.shape[2]
    if missing > 0:
        return functional.pad(x, (0, 0, 0, 0, missing, 0))
    return x[:, :, -CACHE_T:] if missing < 0 else x


class _Upsample(nn.Module):
    """`WanResample` (upsample2d and upsample3d): (N, C, T, H, W) -> (N, C', T', 2H, 2W).

    T' is T, or 2T - 1 where there is a `time_conv`.
    """

    def __init__(self, upstream: WanResample, *, dynamic: bool = False) -> None:
        super().__init__()
        _, conv = upstream.resample
        # Doubling by "nearest" picks the same pixels as upstream's "nearest-exact", which is not an
        # ONNX operator and would become a gather.
        self.resample = nn.Sequential(nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest"), conv)
        self.time_conv = upstream.time_conv if upstream.mode == "upsample3d" else None
        self._dynamic = dynamic

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._double_space(
            x.transpose(1, 2) if self.time_conv is None else self._double_time(x)
        )

    def _double_space(self, frames: torch.Tensor) -> torch.Tensor:
        """Frame-major (N, T', C, H, W) -> (N, C', T', 2H, 2W)."""
        n, t, c, h, w = frames.shape
        y: torch.Tensor = self.resample(frames.reshape(n * t, c, h, w))
        return y.reshape(n, t, y.shape[1], 2 * h, 2 * w).transpose(1, 2)

    def _double_time(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> frame-major (N, 2T - 1, C, H, W)."""
        first, later = x[:, :, :1], x[:, :, 1:]
        if self._dynamic:
            # Runtimes refuse a convolution of no frames, which T = 1 would be. One more frame of
            # the zero history avoids it; the two frames made of it are dropped below.
            later = torch.cat([torch.zeros_like(first), later], dim=2)
        elif x.shape[2] == 1:
            return first.transpose(1, 2)
        doubled = self._double_every(later)
        if self._dynamic:
            doubled = doubled[:, 2:]
        return torch.cat([first.transpose(1, 2), doubled], dim=1)

    def _double_every(self, x: torch.Tensor, history: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, T, H, W) -> frame-major (N, 2T, C, H, W)."""
        assert self.time_conv is not None
        n, c, t, h, w = x.shape
        pairs: torch.Tensor = self.time_conv(x, history).reshape(n, 2, c, t, h, w)
        return pairs.permute(0, 3, 1, 2, 4, 5).reshape(n, 2 * t, c, h, w)


class _StreamUpsample(_Upsample):
    """The same on a chunk of a clip; its cache is the history of `time_conv`."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, feat_cache: list[torch.Tensor | None], feat_idx: list[int]
    ) -> torch.Tensor:
        if self.time_conv is None:
            return super().forward(x)
        place = feat_idx[0]
        feat_idx[0] += 1
        history = feat_cache[place]
        if history is not None:
            feat_cache[place] = _seen_last(x, history)
            return self._double_space(self._double_every(x, history))
        n, c, t, h, w = x.shape
        # Runtimes may refuse a tensor of no frames, which x[:, :, 1:] would be.
        feat_cache[place] = _seen_last(x[:, :, 1:]) if t > 1 else x.new_zeros(n, c, CACHE_T, h, w)
        return self._double_space(self._double_time(x))


class FrameAttention(nn.Module):
    """`WanAttentionBlock`, one head over the H*W positions of each frame, in plain products.

    Upstream's `scaled_dot_product_attention` would become some twenty nodes of shape arithmetic.
    """

    def __init__(self, upstream: WanAttentionBlock) -> None:
        super().__init__()
        self.norm = upstream.norm
        self.to_qkv = upstream.to_qkv
        self.proj = upstream.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W), and the same out."""
        n, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(n * t, c, h, w)
        # q, k and v are (N*T, C, H*W) each.
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).chunk(3, dim=1)
        weights = torch.softmax(torch.matmul((q * c**-0.5).transpose(1, 2), k), dim=-1)
        y = torch.matmul(v, weights.transpose(1, 2)).reshape(n * t, c, h, w)
        projected: torch.Tensor = self.proj(y)
        return x + projected.reshape(n, t, c, h, w).transpose(1, 2)


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


# The configurations published with the weights, as far as they shape the decoder or scale latents.
# Wan 2.1: vae/config.json of Wan-AI/Wan2.1-T2V-14B-Diffusers, the defaults of the class.
# Wan 2.2: Wan-AI/Wan2.2-TI2V-5B-Diffusers; scale of wan/modules/vae2_2.py.
_COMMON = {
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}
_WAN_2_1 = _COMMON | {"base_dim": 96, "z_dim": 16}
_WAN_2_2_TI2V = _COMMON | {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "is_residual": True,
    "scale_factor_spatial": 16,
    "latents_mean": _numbers(
        """
        -0.2289 -0.0052 -0.1323 -0.2339 -0.2799 0.0174 0.1838 0.1557 -0.1382 0.0542 0.2813
        0.0891 0.1570 -0.0098 0.0375 -0.1825 -0.2246 -0.1207 -0.0698 0.5109 0.2665 -0.2108
        -0.2158 0.2502 -0.2055 -0.0322 0.1109 0.1567 -0.0729 0.0899 -0.2799 -0.1230 -0.0313
        -0.1649 0.0117 0.0723 -0.2839 -0.2083 -0.0520 0.3748 0.0152 0.1957 0.1433 -0.2944 0.3573
        -0.0548 -0.1681 -0.0667
        """
    ),
    "latents_std": _numbers(
        """
        0.4765 1.0364 0.4514 1.1677 0.5313 0.4990 0.4818 0.5013 0.8158 1.0344 0.5894 1.0901
        0.6885 0.6165 0.8454 0.4978 0.5759 0.3523 0.7135 0.6804 0.5833 1.4146 0.8986 0.5659
        0.7069 0.5338 0.4889 0.4917 0.4069 0.4999 0.6866 0.4093 0.5709 0.6065 0.6415 0.4944
        0.5726 1.2042 0.5458 1.6887 0.3971 1.0600 0.3943 0.5537 0.5444 0.4089 0.7468 0.7744
        """
    ),
}

WAN = Family(
    name="Wan",
    upstream=AutoencoderKLWan,
    wrap=WanDecoder,
    presets={"wan2.1": _WAN_2_1, "wan2.2-ti2v": _WAN_2_2_TI2V},
    last_layer="decoder.conv_out",
)
