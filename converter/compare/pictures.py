"""Frames as pictures: reference, candidate, and their difference made visible."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.compare.detail import OutputDetail
from converter.compare.feeds import Array
from converter.compare.frames import frame_count, frame_of
from converter.compare.stored_array import AnyArray

Image = np.ndarray[Any, np.dtype[np.uint8]]

MAX_FRAMES = 24
MAX_SIDE = 640
MAX_PIXELS = 6_000_000
"""Of all pictures of a report, so that it stays some ten megabytes."""

_STEPS = (5, 2, 1)


@dataclass(frozen=True)
class Look:
    """How values become pixels: `low` is black, `high` is white, and an error of
    (high - low) / gain is white too.
    """

    low: float
    high: float
    gain: float

    def picture(self, frame: Array) -> Image:
        """(1 or 3, H, W) as (H, W, 3) bytes; what is no number is black."""
        return _bytes((frame - self.low) / (self.high - self.low))

    def error(self, reference: Array, candidate: Array) -> Image:
        """|error| times the gain; where one side is no number it is white."""
        with np.errstate(invalid="ignore"):  # of infinities
            error = np.abs(candidate - reference) / (self.high - self.low) * self.gain
        same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
        return _bytes(np.where(same, 0.0, np.nan_to_num(error, nan=1.0)))


def look(found: OutputDetail) -> Look | None:
    """How to show an output; None where it is no video (N, C, T, H, W) or image (N, C, H, W).

    Values are shown from -1 to 1 where the reference lies about there, else from its least to its
    largest. The gain is 1, 2 or 5 times a power of ten, the largest that keeps 99.9 % of the errors
    from being cut off at white; at least 1.
    """
    one = found.difference
    if len(one.shape) not in (4, 5) or one.problem or 0 in one.shape:
        return None
    low, high = one.reference_min, one.reference_max
    if not low < high:
        high = low + 1.0
    if 0.2 < max(-low, high) <= 1.1 and low < 0:
        low, high = -1.0, 1.0
    return Look(low, high, _gain((found.quantiles[-1] or one.max_abs) / (high - low)))


def visible(array: AnyArray, frame: int) -> Array:
    """One frame of the first sample as (1 or 3, H, W) in float32.

    Three channels are red, green and blue; of other numbers the first is shown in grey.
    """
    whole = frame_of(array, 0, frame)
    return np.asarray(whole if whole.shape[0] == 3 else whole[:1], np.float32)


@dataclass(frozen=True)
class FramePictures:
    """One frame as (H, W, 3) pictures; `difference` is |error| times the strip's gain."""

    frame: int
    reference: Image
    candidate: Image
    difference: Image


@dataclass(frozen=True)
class Strip:
    """Frames of the first sample of an output on one feed, and the gain of their difference."""

    output: str
    feed: int
    gain: float
    total: int
    frames: tuple[FramePictures, ...]


def strip(
    output: str,
    feed: int,
    arrays: tuple[AnyArray, AnyArray],
    shown_as: Look,
    frames: Sequence[int],
) -> Strip:
    """Pictures of some frames of a reference and a candidate; large ones are made smaller.

    Then a pixel is the mean of those that it stands for, and of a difference the largest.
    """
    made = []
    for frame in frames:
        one, two = (visible(array, frame) for array in arrays)
        step = math.ceil(max(one.shape[1:]) / MAX_SIDE)
        made.append(
            FramePictures(
                frame,
                _smaller(shown_as.picture(one), step, largest=False),
                _smaller(shown_as.picture(two), step, largest=False),
                _smaller(shown_as.error(one, two), step, largest=True),
            )
        )
    return Strip(output, feed, shown_as.gain, frame_count(arrays[0]), tuple(made))


def choose_frames(total: int, most: int, wanted: Collection[int] = ()) -> list[int]:
    """At most `most` of `total` frames, at least one: the wanted ones, then evenly spread ones."""
    most = max(1, min(total, most))
    chosen = sorted(wanted)[:most]
    spread = np.linspace(0, total - 1, most).round().astype(int).tolist()
    chosen += [frame for frame in spread if frame not in chosen][: most - len(chosen)]
    return sorted(chosen)


def affordable(array: AnyArray, pictures: int) -> int:
    """How many frames may be shown where each needs that many pictures of an array's frame."""
    height, width = array.shape[-2:]
    step = math.ceil(max(height, width) / MAX_SIDE)
    pixels = max(1, (height // step) * (width // step))
    return max(1, min(MAX_FRAMES, int(MAX_PIXELS // (pixels * pictures))))


def _gain(share: float) -> float:
    """1, 2 or 5 times a power of ten, the largest that keeps `share` within 1, at least 1."""
    if not 0 < share < 1:
        return 1.0
    power = 10.0 ** math.floor(-math.log10(share))
    return next(n * power for n in _STEPS if n * power * share <= 1 or n == 1)


def _bytes(values: Array) -> Image:
    scaled = np.nan_to_num(values, nan=0.0).clip(0, 1) * 255
    picture: Image = np.round(scaled).astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def _smaller(picture: Image, step: int, largest: bool) -> Image:
    if step == 1:
        return picture
    height, width = (size // step * step for size in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step, 3)
    if largest:
        return np.asarray(blocks.max(axis=(1, 3)), np.uint8)
    return np.asarray(blocks.mean(axis=(1, 3)).round(), np.uint8)
