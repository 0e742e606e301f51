"""Nearest-2x upsampling followed by a 3x3 Conv, as four 2x2 kernels on the small frame. Pure NumPy.

    before:  x (N, C, H, W) -> nearest 2x -> (N, C, 2H, 2W) -> Conv 3x3, pads 1 -> (N, O, 2H, 2W)
    after:   x -> four Conv 2x2 -> (N, 4*O, H, W) -> DepthToSpace(2, DCR) -> (N, O, 2H, 2W)

Each output pixel of phase (i, j), that is (2h + i, 2w + j), sees only 2x2 different pixels of x,
so the taps that fall on the same pixel are added beforehand: 4 products a pixel instead of 9. Phase
0 of an axis sees x[h - 1] through w0 and x[h] through w1 + w2; phase 1 sees x[h] through w0 + w1
and x[h + 1] through w2. Pads that keep the size, and need no node of their own, are in PHASES.

Source: sub-pixel convolution, Shi et al., arXiv 1609.05158 and 1609.07009, read backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Phase:
    """Output pixels (2h + row, 2w + column), and the ONNX ``pads`` of the Conv that makes them."""

    row: int
    column: int

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        return (1 - self.row, 1 - self.column, self.row, self.column)


PHASES = tuple(Phase(row, column) for row in (0, 1) for column in (0, 1))
"""In the order in which DepthToSpace (mode DCR) takes blocks of O channels."""

# By phase, which of the three taps each of the two pixels of x is seen through.
_MERGED_TAPS = np.array(
    [
        [[1, 0, 0], [0, 1, 1]],
        [[1, 1, 0], [0, 0, 1]],
    ],
    dtype=np.float64,
)


def phase_weights(
    w: npt.NDArray[np.generic], dtype: npt.DTypeLike | None = None
) -> npt.NDArray[np.generic]:
    """The 2x2 kernels (4, ..., 2, 2) of the PHASES, from w (..., 3, 3), usually (O, C/group, 3, 3).

    Added in float64, then cast to ``dtype``, w's own by default. Each of the four Convs has w's
    groups and bias; concatenated on channels, in order, their results are what DepthToSpace takes.

    Raises ValueError unless the kernel is 3x3.
    """
    if w.ndim < 2 or w.shape[-2:] != (3, 3):
        raise ValueError(f"Phase kernels are made from weights (O, C, 3, 3), not {w.shape}.")
    merged = np.einsum("iak,jbl,...kl->ij...ab", _MERGED_TAPS, _MERGED_TAPS, w.astype(np.float64))
    kernels: npt.NDArray[np.generic] = merged.reshape(len(PHASES), *w.shape[:-2], 2, 2)
    return kernels.astype(w.dtype if dtype is None else dtype)


def phase_matrices(dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """(4, 9, 4): what w (..., 3, 3), flat as (..., 9), is multiplied by for each of the PHASES.

    The product, seen as (..., 2, 2), is what `phase_weights` gives, added in the type of w.
    """
    matrices = np.einsum("iak,jbl->ijklab", _MERGED_TAPS, _MERGED_TAPS)
    flat: npt.NDArray[np.generic] = matrices.reshape(len(PHASES), 9, 4).astype(dtype)
    return flat
