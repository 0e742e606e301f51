"""Upstream's own `decode` in PyTorch as a side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from converter.compare.interface import Interface, TensorSpec
from converter.errors import UserError
from converter.export_common import memory_errors, need_extra, open_decoder
from converter.export_graph import INPUT, OUTPUT
from converter.session import RunError

if TYPE_CHECKING:
    from models.source import Opened

Array = np.ndarray[Any, np.dtype[Any]]


def upstream_interface(source: str, seed: int | None) -> Interface:
    """Latent (N, C, T, H, W) -> video, both fp32.

    Raises:
        UserError: `source` is nothing that `export-vae` takes, or the `export` extra is missing.
    """
    geometry = _open(source, seed).decoder.geometry
    latent = TensorSpec(INPUT, TensorProto.FLOAT, ("N", geometry.channels, "T", "H", "W"))
    video = ("N", geometry.video_channels, "frames", "height", "width")
    return Interface((latent,), (TensorSpec(OUTPUT, TensorProto.FLOAT, video),))


class UpstreamRunner:
    """Runs the unmodified `decode` of the diffusers class in fp32 on the CPU."""

    def __init__(self, source: str, seed: int | None) -> None:
        import diffusers
        import torch

        self._source = source
        self._opened = _open(source, seed)
        self.description = (
            f"{self._opened.family.upstream.__name__}.decode of diffusers {diffusers.__version__}, "
            f"PyTorch {torch.__version__}"
        )

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The video of one latent; raises `RunError` where upstream does not decode it."""
        import torch

        latent = np.ascontiguousarray(feed[INPUT], np.float32)
        try:
            self._opened.decoder.geometry.video_shape(latent.shape)
            with torch.inference_mode(), memory_errors():
                video = self._opened.decoder.reference(torch.from_numpy(latent))
        except (RuntimeError, ValueError) as error:
            shape = "x".join(map(str, latent.shape))
            raise RunError(f"torch:{self._source} does not decode {shape}: {error}") from error
        return {OUTPUT: video.numpy()}


def _open(source: str, seed: int | None) -> Opened:
    need_extra()
    try:
        return open_decoder(source, seed)
    except UserError as error:  # its --seed is the other command's
        raise UserError(str(error).replace("--seed", "--weights-seed")) from error
