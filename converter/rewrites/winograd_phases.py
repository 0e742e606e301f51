"""Winograd for a convolution dilated in time: the frames fall into as many phases as its dilation.

Output frame t reads the frames t, t + d and t + 2d of the padded input. So the output frames of one
remainder of t modulo d, and the input frames of that remainder, are a convolution that is not
dilated. Which frames a tile reads and makes is all in the two matrices: the tiles of every phase
stand in the rows of one, and go into the same grouped Conv2D.
"""

from __future__ import annotations

import math

import numpy as np

from converter.constants import Array
from converter.rewrites.cook_toom import Transform


def tiles_of_a_phase(frames: int, dilation: int, m: int) -> int:
    """How many tiles of m frames the longest phase of so many output frames takes."""
    return math.ceil(math.ceil(frames / dilation) / m)


def data_matrix(transform: Transform, tiles: int, dilation: int, begin: int, t: int) -> Array:
    """B^T of `tiles` tiles in each phase, for unpadded input: (J * tiles * d, T).

    `begin` frames of zeros come before the input; as many as it takes come behind.
    """
    whole = transform.data(tiles)
    frames = whole.shape[1]
    matrix = np.zeros((dilation * len(whole), begin + max(t, frames * dilation)))
    for phase in range(dilation):
        rows = slice(phase * len(whole), (phase + 1) * len(whole))
        matrix[rows, phase : phase + frames * dilation : dilation] = whole
    return matrix[:, begin : begin + t]


def output_matrix(transform: Transform, tiles: int, dilation: int, frames: int) -> Array:
    """A^T of the same tiles: (frames, J * tiles * d)."""
    whole = transform.output(tiles)
    made, products = whole.shape
    matrix = np.zeros((made * dilation, products * dilation))
    for phase in range(dilation):
        columns = slice(phase * products, (phase + 1) * products)
        matrix[phase::dilation, columns] = whole
    return matrix[:frames]
