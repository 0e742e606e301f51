"""A decoder that a running `serve-vae` has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from converter.client import Client
from converter.errors import UserError
from converter.runtime.decoder import as_latent, to_pixels
from converter.session import Array

DTYPES: Mapping[str, np.dtype[Any]] = {
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "UINT8": np.dtype(np.uint8),
}
"""Of the protocol's types, those that an .npy file of the server can have."""

FIRST_TRIES = 2
"""To find the server: a wrong address is to be told soon."""


class ServedDecoder:
    """As `Decoder`, as far as files are decoded; a whole clip is one chunk.

    Attributes:
        video_dtype: Of the model's video.

    Raises:
        UserError: there is no such server or model, or it is no decoder.
    """

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model
        content = replace(client, tries=FIRST_TRIES).metadata(model)
        if len(content["inputs"]) != 1 or len(content["outputs"]) != 1:
            raise UserError(f"{model} at {client.url} is no decoder from one latent to one video.")
        self._dtype = self._of(content["inputs"][0])
        self.video_dtype = self._of(content["outputs"][0])

    def frames(self, count: int) -> int | None:
        """None: the answer will tell."""
        return None

    def stream(self, latent: Array, *, uint8: bool = False) -> Iterator[Array]:
        """The video of a latent (N, C, T, H, W) as one chunk, as `Decoder.stream` has several.

        Raises:
            UserError: the server refuses the latent or does not answer; before the chunk.
        """
        video = self._client.decode(self._model, as_latent(latent, self._dtype))
        if video.ndim != 5 or video.dtype != self.video_dtype:
            raise UserError(f"{self._client.url} answers {video.dtype} of shape {video.shape}.")
        return iter([to_pixels(video) if uint8 and video.dtype != np.uint8 else video])

    def _of(self, tensor: Mapping[str, Any]) -> np.dtype[Any]:
        if tensor["datatype"] not in DTYPES:
            raise UserError(
                f"{self._model} at {self._client.url} has {tensor['name']} in "
                f"{tensor['datatype']}; by a server {', '.join(DTYPES)} are decoded."
            )
        return DTYPES[tensor["datatype"]]
