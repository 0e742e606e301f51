"""Frame by frame: PSNR and SSIM of a video or image tensor.

PSNR takes one data range for all frames, so that a dark frame is not judged more strictly than a
bright one. SSIM is that of Wang et al. (2004), as scikit-image computes it: a Gaussian window of
sigma 1.5 over 11 x 11 pixels, mean over pixels and channels.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.compare.jsonable import jsonable
from converter.compare.metrics import Array, psnr
from converter.compare.stored_array import AnyArray
from converter.errors import UserError

SSIM_WINDOW = 11


@dataclass(frozen=True)
class FrameDifference:
    """How far one frame of one sample is from the reference's.

    Figures are nan where a pixel is not finite; `ssim` also where a side is below 11 pixels.
    """

    sample: int
    frame: int
    psnr_db: float
    max_abs: float
    mean_abs: float
    ssim: float


@dataclass(frozen=True)
class Spread:
    """Mean, least and largest of a figure over all frames where it is known; nan if nowhere."""

    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class FrameTable:
    """Every frame, in order, and the range that their PSNR and SSIM refer to."""

    data_range: float
    frames: tuple[FrameDifference, ...]

    @property
    def psnr_db(self) -> Spread:
        """Over frames; the mean is inf as soon as one frame is equal."""
        return _spread([frame.psnr_db for frame in self.frames])

    @property
    def ssim(self) -> Spread:
        """Over frames."""
        return _spread([frame.ssim for frame in self.frames])

    def to_json(self) -> dict[str, Any]:
        """Summary and frames; a float that is not finite becomes None."""
        fields: dict[str, Any] = jsonable(self)
        return {**fields, "psnr_db": jsonable(self.psnr_db), "ssim": jsonable(self.ssim)}


def frame_table(reference: AnyArray, candidate: AnyArray, data_range: float) -> FrameTable | None:
    """Compare videos (N, C, T, H, W) or images (N, C, H, W); None for any other rank.

    Raises `UserError` when scikit-image is not installed.
    """
    if reference.ndim not in (4, 5) or not reference.size:
        return None
    ssim = _ssim()
    frames = tuple(
        _frame(sample, frame, left, right, data_range, ssim)
        for sample, frame, left, right in _frames(reference, candidate)
    )
    return FrameTable(data_range, frames)


def _frames(reference: AnyArray, candidate: AnyArray) -> Iterator[tuple[int, int, Array, Array]]:
    """Every (C, H, W) pair in float64, with its sample and frame number."""
    for sample in range(reference.shape[0]):
        for frame in range(frame_count(reference)):
            left, right = (frame_of(array, sample, frame) for array in (reference, candidate))
            yield sample, frame, left.astype(np.float64), right.astype(np.float64)


def frame_count(array: AnyArray) -> int:
    """How many frames a sample of a video (N, C, T, H, W) has; that of an image is one."""
    return int(array.shape[2]) if array.ndim == 5 else 1


def frame_of(array: AnyArray, sample: int, frame: int) -> Array:
    """One frame (C, H, W) of a video, or an image."""
    return array[sample, :, frame] if array.ndim == 5 else array[sample]


def _frame(
    sample: int,
    frame: int,
    left: Array,
    right: Array,
    data_range: float,
    ssim: Callable[..., Any],
) -> FrameDifference:
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return FrameDifference(sample, frame, *(math.nan,) * 4)
    error = np.abs(right - left)
    likeness = math.nan
    if min(left.shape[1:]) >= SSIM_WINDOW:
        likeness = float(
            ssim(
                left,
                right,
                data_range=data_range,
                channel_axis=0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
    rmse = float(np.sqrt(np.mean(np.square(error))))
    return FrameDifference(
        sample,
        frame,
        psnr(rmse, data_range),
        float(error.max()),
        float(error.mean()),
        likeness,
    )


def _spread(values: list[float]) -> Spread:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(sum(known) / len(known), min(known), max(known))


def check_installed() -> None:
    """Raise `UserError` when scikit-image is not installed."""
    _ssim()


def _ssim() -> Callable[..., Any]:
    try:
        module = importlib.import_module("skimage.metrics")
    except ImportError as error:
        raise UserError(
            "SSIM needs scikit-image; install it by pip install 'convert-vae[report]', or leave "
            "frames out by --no-frames."
        ) from error
    function: Callable[..., Any] = module.structural_similarity
    return function
