"""Frames as small pictures: reference, candidate, and their difference made visible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.compare.feeds import Array

Image = np.ndarray[Any, np.dtype[np.uint8]]

MAX_FRAMES = 24
MAX_SIDE = 256
"""Pixels: at most 24 x 3 pictures of 256 x 256, so that a report stays some megabytes."""


@dataclass(frozen=True)
class FramePictures:
    """One frame as (H, W, 3) pictures; `difference` is |error| times the strip's gain."""

    frame: int
    reference: Image
    candidate: Image
    difference: Image


@dataclass(frozen=True)
class Strip:
    """Frames of the first sample, and by how much their difference is amplified."""

    output: str
    gain: float
    total: int
    frames: tuple[FramePictures, ...]


def strip(name: str, reference: Array, candidate: Array) -> Strip | None:
    """Pictures of a video (N, C, T, H, W) or image (N, C, H, W); None for any other tensor.

    Three channels are red, green and blue; of other numbers the first is shown in grey. Values
    are shown from -1 to 1 where the reference lies about there, else from its least to its
    largest. The gain, a power of ten, makes the largest difference at most white. Large frames
    are thinned, and of many frames some are shown.
    """
    if reference.shape != candidate.shape or reference.ndim not in (4, 5) or not reference.size:
        return None
    one, two = (_video(array) for array in (reference, candidate))
    finite = one[np.isfinite(one)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if 0.2 < max(-low, high) <= 1.1 and low < 0:
        low, high = -1.0, 1.0
    spread = (high - low) or 1.0
    error = np.nan_to_num(np.abs(two - one), nan=spread, posinf=spread)
    gain = _gain(float(error.max()) / spread)
    total = one.shape[1]
    chosen = np.unique(np.linspace(0, total - 1, min(total, MAX_FRAMES)).round().astype(int))
    frames = tuple(
        FramePictures(
            int(frame),
            _picture((one[:, frame] - low) / spread),
            _picture((two[:, frame] - low) / spread),
            _picture(error[:, frame] / spread * gain),
        )
        for frame in chosen
    )
    return Strip(name, gain, total, frames)


def _video(array: Array) -> Array:
    """The first sample as (1 or 3, T, H, W) in float32, thinned to the size of a picture."""
    video = array[0] if array.ndim == 5 else array[0][:, None]
    step = max(1, math.ceil(max(video.shape[2:]) / MAX_SIDE))
    kept = video if video.shape[0] == 3 else video[:1]
    return np.asarray(kept[:, :, ::step, ::step], np.float32)


def _gain(largest: float) -> float:
    """The largest power of ten that keeps `largest` within 1; 1 where nothing differs."""
    return 10.0 ** max(0, math.floor(-math.log10(largest))) if largest > 0 else 1.0


def _picture(values: Array) -> Image:
    """(1 or 3, H, W) in 0..1 as (H, W, 3) bytes; what is no number is black."""
    scaled = np.nan_to_num(values, nan=0.0).clip(0, 1) * 255
    picture: Image = np.round(scaled).astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(picture, (*picture.shape[:2], 3))
