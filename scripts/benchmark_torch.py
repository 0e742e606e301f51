"""The Wan 2.1 decoder in PyTorch, as a graph to convert and as contestants of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.errors import UserError

INPUT, OUTPUT = "latent", "video"
SEED = 0


def export_steady(source: str, latent: tuple[int, ...], path: Path) -> None:
    """Write the steady chunk as an ONNX graph; see `steady_module`."""
    import torch

    module = steady_module(_decoder(source))
    torch.onnx.export(
        module,
        (torch.zeros(latent),),
        str(path),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def steady_module(decoder):
    """What a chunk costs once a stream is running: the clip form without its first-frame rule.

    Every latent frame is doubled in time by both temporal upsamplings (T = 2, 4, 8 for a chunk of
    2), and the frames that a causal convolution saw before the chunk are zeros. Its products are
    those of a chunk with real frames there.
    """
    from torch import nn

    class DoubleEveryFrame(nn.Module):
        """(N, C, T, H, W) -> (N, C', 2T, 2H, 2W)."""

        def __init__(self, upsample):
            super().__init__()
            self.time_conv, self.resample = upsample.time_conv, upsample.resample

        def forward(self, x):
            n, c, t, h, w = x.shape
            pairs = self.time_conv(x).reshape(n, 2, c, t, h, w).permute(0, 3, 1, 2, 4, 5)
            y = self.resample(pairs.reshape(n * 2 * t, c, h, w))
            return y.reshape(n, 2 * t, -1, 2 * h, 2 * w).transpose(1, 2)

    clip = decoder.clip(dynamic=False)
    for name, module in list(clip.named_modules()):
        if getattr(module, "time_conv", None) is not None:
            clip.set_submodule(name, DoubleEveryFrame(module))
    return clip.eval()


@dataclass(frozen=True)
class Upstream:
    """Upstream's own code: `decode` of a clip or, if `steady`, its loop over later frames.

    `conv2d` names a strategy of `converter.eager` to put into it.
    """

    label: str
    source: str
    steady: bool
    dtype: str
    threads: int
    conv2d: str = ""

    def load(self) -> _Torch:
        """See `converter.bench.worker.Contestant`."""
        import torch

        if self.dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise UserError("no fast bfloat16 in PyTorch on this processor; a run takes minutes.")
        torch.set_num_threads(self.threads)
        vae = _decoder(self.source)._vae
        vae.encoder = None  # a decoder is what is measured, its memory too
        dtype = getattr(torch, self.dtype)
        vae.to(dtype)
        if self.conv2d:
            from converter.eager import replace_conv3d

            replace_conv3d(vae.decoder, self.conv2d)
        decode = _steady_loop(vae) if self.steady else lambda latent: vae.decode(latent).sample
        return _Torch(decode, dtype, f"PyTorch {torch.__version__} {self.dtype}")


@dataclass(frozen=True)
class Compiled:
    """The module that was exported, under torch.compile."""

    label: str
    source: str
    steady: bool
    threads: int

    def load(self) -> _Torch:
        """See `converter.bench.worker.Contestant`."""
        import torch

        torch.set_num_threads(self.threads)
        decoder = _decoder(self.source)
        module = steady_module(decoder) if self.steady else decoder.clip(dynamic=False)
        description = f"PyTorch {torch.__version__} torch.compile float32"
        return _Torch(torch.compile(module), torch.float32, description)


class _Torch:
    def __init__(self, decode: Callable, dtype, description: str) -> None:
        self._decode, self._dtype, self.description = decode, dtype, description

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            video = self._decode(torch.from_numpy(feed[INPUT]).to(self._dtype))
            return {OUTPUT: video.float().numpy()}


def _decoder(source: str):
    from models.source import open_source

    return open_source(source, SEED).decoder


def _steady_loop(vae) -> Callable:
    """Upstream's loop of `_decode` over frames after the first, from a history of zeros.

    Equal to `steady_module`: None stands for zeros among upstream's caches, and "Rep" for them at
    a temporal upsampling, which only the clip's first frame leaves there.
    """
    import torch

    first = torch.zeros(1, vae.config.z_dim, 1, 2, 2, dtype=vae.dtype)
    with torch.inference_mode():
        vae.clear_cache()
        vae.decoder(first, feat_cache=vae._feat_map, feat_idx=[0], first_chunk=True)
    history = ["Rep" if isinstance(cache, str) else None for cache in vae._feat_map]
    vae.clear_cache()

    def decode(latent):
        caches = list(history)
        x = vae.post_quant_conv(latent)
        frames = [
            vae.decoder(x[:, :, t : t + 1], feat_cache=caches, feat_idx=[0])
            for t in range(x.shape[2])
        ]
        return torch.cat(frames, dim=2).clamp(-1, 1)

    return decode
