"""A comparison as a video: a row a candidate, in it reference | candidate | difference."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.compare.diff_result import CandidateResult
from converter.compare.frames import frame_count
from converter.compare.pictures import Image, visible
from converter.compare.showing import Run, Shown, shown
from converter.errors import UserError
from converter.output_files import check_writable
from converter.video_file import SUFFIXES, VideoWriter

LEAST_WIDTH = 240
"""Pixels of a picture: smaller frames are enlarged by a whole factor, so that captions fit."""

CAPTION = 22
GAP = 4
BACKGROUND, INK = 24, 235


def check_video_path(path: Path) -> None:
    """Raise `UserError` unless a video can be written there."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--video {path}: the form must be one of {', '.join(SUFFIXES)}.")
    check_writable("--video", path)
    for module, package, extra in (("av", "PyAV", "video"), ("PIL.ImageFont", "Pillow", "report")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"--video needs {package}; install it by pip install 'convert-vae[{extra}]'."
            ) from error


def write_side_by_side(
    path: Path,
    reference_label: str,
    results: Sequence[CandidateResult],
    reference: Sequence[Run],
    candidates: Sequence[Sequence[Run]],
) -> None:
    """Every frame of the first sample, feed after feed; one frame is in memory at a time.

    The file appears when it is whole. Raises `UserError` where no output is a video, or feeds
    give frames of several sizes.
    """
    feeds = list(shown(results, reference, candidates))
    if not feeds:
        raise UserError("--video needs an output with frames, (N, C, T, H, W) or (N, C, H, W).")
    sizes = {one.reference.shape[-2:] for found in feeds for one in found}
    if len(sizes) > 1:
        shapes = ", ".join(sorted(f"{width}x{height}" for height, width in sizes))
        raise UserError(f"--video needs frames of one size, but the feeds give {shapes}.")
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".video-") as folder:
        pending = Path(folder) / path.name
        with VideoWriter(pending) as writer:
            for found in feeds:
                captions = [_captions(reference_label, results, one) for one in found]
                for frame in range(frame_count(found[0].reference)):
                    rows = [
                        _row(one, frame, caption)
                        for one, caption in zip(found, captions, strict=True)
                    ]
                    writer.write(np.concatenate(rows)[None])
        os.replace(pending, path)


def _captions(label: str, results: Sequence[CandidateResult], one: Shown) -> list[str]:
    return [
        f"reference: {label}",
        results[one.candidate].run.label,
        f"|difference| x {one.look.gain:,.0f}",
    ]


def _row(one: Shown, frame: int, captions: Sequence[str]) -> Image:
    """One candidate's three pictures beside each other, each under its caption."""
    left, right = visible(one.reference, frame), visible(one.array, frame)
    pictures = (one.look.picture(left), one.look.picture(right), one.look.error(left, right))
    columns = []
    for picture, caption in zip(pictures, captions, strict=True):
        larger = -(-LEAST_WIDTH // picture.shape[1])
        big = picture.repeat(larger, axis=0).repeat(larger, axis=1)
        columns += [_caption(caption, big.shape[1]), big]
    columns = [np.concatenate(columns[n : n + 2]) for n in range(0, len(columns), 2)]
    gap = np.full((columns[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    row = np.concatenate([columns[0], gap, columns[1], gap, columns[2]], axis=1)
    return np.asarray(row, np.uint8)


def _caption(text: str, width: int) -> Image:
    drawing: Any = importlib.import_module("PIL.ImageDraw")
    image = importlib.import_module("PIL.Image").new("RGB", (width, CAPTION), (BACKGROUND,) * 3)
    font = importlib.import_module("PIL.ImageFont").load_default(13)
    drawing.Draw(image).text((4, 3), text, fill=(INK,) * 3, font=font)
    return np.asarray(image, np.uint8)
