"""Upstream's own `decode`, or `encode`, in PyTorch as a side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from converter.compare.interface import Interface, TensorSpec
from converter.errors import UserError
from converter.export_common import memory_errors, need_extra, open_decoder
from converter.export_graph import INPUT, OUTPUT
from converter.origin import GraphOptions
from converter.session import RunError

if TYPE_CHECKING:
    from models.source import Opened

Array = np.ndarray[Any, np.dtype[Any]]


def upstream_interface(source: str, seed: int | None, *, encoder: bool = False) -> Interface:
    """Latent (N, C, T, H, W) -> video, both fp32; with `encoder` video -> latent.

    Raises:
        UserError: `source` is nothing that `export-vae` takes, or the `export` extra is missing.
    """
    opened = _open(source, seed, encoder=encoder)
    geometry = opened.decoder.geometry
    given, made = (geometry.channels, geometry.video_channels), ("frames", "height", "width")
    names = (OUTPUT, INPUT) if encoder else (INPUT, OUTPUT)
    channels = given[::-1] if encoder else given
    sizes = map(str, opened.coder.sizes().values())
    return Interface(
        (TensorSpec(names[0], TensorProto.FLOAT, ("N", channels[0], *sizes)),),
        (TensorSpec(names[1], TensorProto.FLOAT, ("N", channels[1], *made)),),
    )


class UpstreamRunner:
    """Runs the unmodified `decode`, or `encode`, of the diffusers class in fp32 on the CPU."""

    def __init__(self, source: str, seed: int | None, *, encoder: bool = False) -> None:
        import diffusers
        import torch

        self._source = source
        self._opened = _open(source, seed, encoder=encoder)
        self._function = "encode" if encoder else "decode"
        self.description = (
            f"{self._opened.family.upstream.__name__}.{self._function} of diffusers "
            f"{diffusers.__version__}, PyTorch {torch.__version__}"
        )

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The video of one latent, or the latent of a video.

        Raises:
            RunError: upstream does not decode, or encode, its shape.
        """
        import torch

        ((_, given),) = feed.items()
        x = np.ascontiguousarray(given, np.float32)
        opened = self._opened
        try:
            if opened.encoder is None:
                opened.decoder.geometry.video_shape(x.shape)
            else:
                opened.encoder.latent_shape(x.shape)
            with torch.inference_mode(), memory_errors():
                made = opened.coder.reference(torch.from_numpy(x))
        except (RuntimeError, ValueError) as error:
            shape = "x".join(map(str, x.shape))
            raise RunError(f"{self._source} does not {self._function} {shape}: {error}") from error
        return {OUTPUT if opened.encoder is None else INPUT: made.numpy()}


def _open(source: str, seed: int | None, *, encoder: bool) -> Opened:
    need_extra()
    try:
        return open_decoder(source, seed).adapted(GraphOptions(encoder=encoder))
    except UserError as error:  # its --seed is the other command's
        raise UserError(str(error).replace("--seed", "--weights-seed")) from error
