"""Whether an exported graph computes what upstream's `decode`, or `encode`, does.

Both run in fp32, so they differ by rounding. How much that may be depends on the decoder: a deep
one with norms over a whole clip loses more than a shallow one. So a graph that misses `TOLERANCE`
is judged by upstream's own rounding error, the difference between its fp32 and its float64 result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import UserError
from converter.session import Array

if TYPE_CHECKING:
    from models.base import Shape
    from models.source import Opened

TOLERANCE = 1e-5
"""Largest absolute error against upstream, on a video of [-1, 1]: fp32 rounding of some 40 layers
in another order of summation makes 1e-6 to 1e-5."""

ROUNDINGS = 4
"""Times upstream's own rounding error that a graph may be off. It sums in another order, and
onnxruntime's norms sum one number after the other where PyTorch's sum in a tree. Measured on
Allegro, which has a norm before each of 120 convolutions: 3.4 times. A mistake shows as 100."""

SEED = 0
HALF_RANGE = 127.5
"""Levels of uint8 that 1.0 is worth."""


@dataclass(frozen=True)
class Check:
    """The outcome.

    Attributes:
        shapes: Of the latents that were decoded, or videos that were encoded.
        max_abs_error: Largest difference from upstream in fp32; NaN if one has a NaN.
        tolerance: What it is held against.
        rounding: Largest difference of upstream in fp32 from upstream in float64; None where it
            was not needed.
    """

    shapes: tuple[Shape, ...]
    max_abs_error: float
    tolerance: float
    rounding: float | None


def verdict(
    error: float, tolerance: float, rounding: float | None, function: str = "decode"
) -> str:
    """The figures of a `Check` as words; `function` is upstream's."""
    equal, sign = ("equal to", "<=") if error <= tolerance else ("different from", ">")
    text = f"{equal} upstream's {function}: max abs {error:.2e} {sign} {tolerance:.3g}"
    if rounding is not None and tolerance > TOLERANCE:
        text += f", {ROUNDINGS} times upstream's own rounding error"
    return text


def check(
    opened: Opened,
    run: Callable[[Array], Array],
    shapes: Sequence[Shape],
    tolerance: float | None,
) -> Check:
    """Decode, or encode, seeded random examples by the graph and by upstream.

    Args:
        opened: Upstream.
        run: Runs the graph: latent -> video, or video -> latent.
        shapes: Of the latents, or videos (N, 3, T, H, W).
        tolerance: Largest absolute error; None for `TOLERANCE` or, where that is missed,
            `ROUNDINGS` times upstream's own rounding error if that is more.

    Raises:
        UserError: the shapes of what is made differ, or upstream makes no numbers.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    examples = [opened.coder.example(shape, generator) for shape in shapes]
    references, errors = [], []
    for example in examples:
        with torch.inference_mode():
            reference = opened.coder.reference(example).numpy()
        if not np.isfinite(reference).all():
            raise UserError(
                "upstream itself makes NaN or infinity of a random input, so there is nothing to "
                "compare with: its weights hold such values, or are too large. Look at the "
                "weights, or give --no-check."
            )
        made = run(example.numpy())
        if made.dtype == np.uint8:
            made = made.transpose(0, 4, 1, 2, 3)
        if made.shape != reference.shape:
            raise UserError(
                f"the graph makes {made.shape} of an input {tuple(example.shape)} where upstream "
                f"makes {reference.shape}; please report this."
            )
        references.append(reference)
        errors.append(_difference(made, reference))
    error, rounding = float(np.max(errors)), None
    limit = TOLERANCE if tolerance is None else tolerance
    if tolerance is None and error > limit:
        exact = opened.in_float64()
        with torch.inference_mode():
            own = [
                np.abs(exact.reference(x.double()).numpy() - reference).max()
                for x, reference in zip(examples, references, strict=True)
            ]
        rounding = float(np.max(own))
        limit = max(limit, ROUNDINGS * rounding)
    return Check(tuple(shapes), error, limit, rounding)


def _difference(made: Array, reference: Array) -> float:
    """The largest error; of pixels what is more than the rounding to a level, on [-1, 1]."""
    if made.dtype != np.uint8:
        return float(np.abs(made - reference).max())
    levels = (reference.astype(np.float64).clip(-1, 1) + 1) * HALF_RANGE
    off = np.abs(made - levels).max() - 0.5
    return float(np.maximum(off, 0) / HALF_RANGE)
