"""How to compare, as a user asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from converter.compare.feeding import FeedPlan
from converter.compare.gates import Gates
from converter.compare.layers import SLICE
from converter.providers import AUTO
from converter.session import PLAIN, SessionSettings


@dataclass(frozen=True)
class DiffRequest:
    """How to compare.

    Attributes:
        feeds: What to feed.
        data_range: What PSNR and SSIM of frames refer to; None for the reference's own range.
        frames: Whether to compare frame by frame, which needs scikit-image.
        pictures: Whether to keep pictures of the first video output, for a report.
        video: An .mp4 or .webm of that output: reference, candidate, difference side by side.
        layers: Whether to compare layer by layer, `slice_size` in one run.
        weights_seed: Of the weights of `torch:` sides that come without any.
        settings: Of the sessions; only the candidates' are strict.
        save_inputs: An .npz to save the feeds in.
        save_outputs: A folder for one .npz of outputs a graph.
    """

    feeds: FeedPlan = field(default_factory=FeedPlan)
    gates: Gates = field(default_factory=Gates)
    provider: str = AUTO
    settings: SessionSettings = PLAIN
    data_range: float | None = None
    frames: bool = True
    pictures: bool = False
    video: Path | None = None
    layers: bool = False
    slice_size: int = SLICE
    weights_seed: int | None = None
    save_inputs: Path | None = None
    save_outputs: Path | None = None
