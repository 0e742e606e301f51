"""Decode a clip of any length chunk by chunk, in memory that does not grow with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converter import manifest, providers
from converter.errors import UserError
from converter.manifest import FIRST, NEXT
from converter.providers import AUTO
from converter.session import Array, SessionSettings


class StreamDecoder:
    """The two graphs of a manifest.

    Args:
        path: The manifest.
        provider: Execution provider; `auto` takes the best that is usable here.
        settings: Of both sessions.

    Raises:
        UserError: the manifest or its files are not in order, or the provider is not usable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provider: str = AUTO,
        settings: SessionSettings | None = None,
    ) -> None:
        read = manifest.read(Path(path))
        self.spec = read.spec
        self._first = providers.make_session(read.path(FIRST), provider, settings)
        self._next = providers.make_session(read.path(NEXT), provider, settings)

    def stream(self, latent: Array) -> Iterator[Array]:
        """The video of a latent (N, C, T, H, W), T >= 1, as chunks (N, 3, t, H', W') in order.

        A last chunk that is not full repeats the last latent frame, and what is made of the
        repetitions is dropped. As no frame depends on a later one, the others stay as they are.

        Raises:
            UserError: the latent does not fit; before the first chunk.
        """
        self._check(latent)
        return self._chunks(latent)

    def decode(self, latent: Array) -> Array:
        """The whole video (N, 3, (T - 1) * time + 1, H', W')."""
        return np.concatenate(list(self.stream(latent)), axis=2)

    def _chunks(self, latent: Array) -> Iterator[Array]:
        spec = self.spec
        caches: dict[str, Any] = {}
        for start in range(0, latent.shape[2], spec.chunk):
            part = latent[:, :, start : start + spec.chunk]
            real = part.shape[2]
            if real < spec.chunk:
                part = np.concatenate([part, *[part[:, :, -1:]] * (spec.chunk - real)], axis=2)
            session = self._next if start else self._first
            made = session.run_values({spec.latent_name: session.value(part), **caches})
            caches = {cache.input: made[cache.output] for cache in spec.caches}
            frames = real * spec.time if start else (real - 1) * spec.time + 1
            yield session.array(made[spec.video_name])[:, :, :frames]

    def _check(self, latent: Array) -> None:
        wanted = self.spec.latent
        sizes = ("N", wanted[0]), ("C", wanted[1]), ("H", wanted[3]), ("W", wanted[4])
        if latent.ndim != 5 or 0 in latent.shape:
            raise UserError(f"a latent is (N, C, T, H, W), not of shape {latent.shape}.")
        if latent.dtype != np.float32:
            raise UserError(f"the latent is {latent.dtype}; this decoder takes float32.")
        for axis, size in sizes:
            given = latent.shape["NCTHW".index(axis)]
            if size not in (None, given):
                raise UserError(
                    f"the latent has {given} on {axis}, but this decoder was made for {size}; "
                    "export it for that size."
                )
