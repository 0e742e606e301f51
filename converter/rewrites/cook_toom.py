"""Temporal Winograd: fewer products for a convolution along time, by Cook-Toom, in pure NumPy.

A filter of r taps gives m output frames from the m + r - 1 input frames d it sees. Directly, that
takes r * m products, each a whole Conv2D of one frame by one tap. F(m, r) takes J = m + r - 1:

    y = A^T [(G w) * (B^T d)]          B^T (J, J), G (J, r), A^T (m, J), * elementwise

The matrices follow from m + r - 2 interpolation points and infinity. The product of two polynomials
of degree m - 1 and r - 1 is found by evaluating both at the points (V_m, V_r), multiplying, and
interpolating (V_J^-1); the filter is the transpose of that: A^T = V_m^T, G = V_r, B^T = V_J^-T.
They are computed in fractions, so the only rounding is the last one, to float64.

Sources: Toom 1963, Cook 1966; Winograd, Arithmetic Complexity of Computations, 1980;
Lavin and Gray, arXiv 1509.09308 (the use in neural networks); Barabasz et al., arXiv 1803.10986
(which points lose the least).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rational = tuple[tuple[Fraction, ...], ...]

# By m, for r = 3. Chosen over all sets of such fractions for the smallest RMS of |A^T| |G| |B^T|,
# then for the measured fp32 error. Denominators are powers of two, so float32 holds B^T and A^T.
_POINTS = {
    2: "0 1 -1",
    3: "0 1 -1 -2",
    4: "0 1 -1 2 -1/2",
    5: "0 1 -1 2 -3/2 3/8",
    6: "0 1 -1 2 -2 1/2 -1/2",
    7: "0 1 -1 3 -2 3/4 -5/8 1/4",
    8: "0 1 -1 2 -3 -3/2 3/4 -1/2 3/8",
}
_MORE_POINTS = "0 1 -1 2 -2 1/2 -1/2 5/4 -5/4 3/4 -3/4 3 -3 3/8 -3/8 4 -4"


@dataclass(frozen=True)
class ExactTransform:
    """F(m, r) in fractions: rows of B^T (J, J), G (J, r) and A^T (m, J).

    ``bias`` (J,) is the vector that A^T maps to 1 on every frame. Only the product of the point 1
    is not zero in it: its column of A^T is constant, since the powers of 1 are.
    """

    bt: Rational
    g: Rational
    at: Rational
    bias: tuple[Fraction, ...]


@dataclass(frozen=True)
class Transform:
    """F(m, r) as float64 arrays ``bt`` (J, J), ``g`` (J, r), ``at`` (m, J), ``bias`` (J,)."""

    bt: Array
    g: Array
    at: Array
    bias: Array

    def data(self, tiles: int) -> Array:
        """B^T of neighbouring tiles, a block diagonal of stride m: (J * tiles, tiles * m + r - 1).

        Its product with x viewed as (T_in, C*H*W) reads as (tiles, J*C, H, W).
        """
        m, j = self.at.shape
        d = np.zeros((j * tiles, tiles * m + j - m))
        for p in range(tiles):
            d[p * j : (p + 1) * j, p * m : p * m + j] = self.bt
        return d

    def output(self, tiles: int) -> Array:
        """A^T of neighbouring tiles, a block diagonal: (tiles * m, J * tiles).

        Its product with the Conv's result viewed as (tiles * J, O*H*W) is the output's frames.
        """
        return np.kron(np.eye(tiles), self.at).astype(np.float64)


def products(m: int, r: int = 3) -> int:
    """J, the number of products that F(m, r) takes for m frames; directly they are r * m."""
    return m + r - 1


def points(m: int, r: int = 3) -> tuple[Fraction, ...]:
    """The finite interpolation points of F(m, r): m + r - 2 of them; infinity is always the last.

    Raises ValueError where none are known: m < 2, r < 2, or more than 17 points.
    """
    if m < 2 or r < 2:
        raise ValueError(f"F({m}, {r}) saves nothing: m and r must be at least 2.")
    # The points of F(m, 3) serve every F(m', r') with as many products.
    text = _POINTS.get(products(m, r) - 2, _MORE_POINTS).split()
    wanted = products(m, r) - 1
    if wanted > len(text):
        raise ValueError(f"F({m}, {r}) needs {wanted} points; only {len(text)} are known.")
    return tuple(Fraction(point) for point in text[:wanted])


def exact_matrices(
    m: int, r: int = 3, finite_points: Sequence[Fraction] | None = None
) -> ExactTransform:
    """F(m, r) in fractions, from the given points or the best known ones.

    Each product is scaled by powers of two, which costs no accuracy, so that its row of B^T and its
    row of G are about unit vectors: transformed frames and weights are then as large as the
    originals, which matters in fp16. The column of A^T undoes both.

    Raises ValueError if the points are not m + r - 2 distinct ones that include 1.
    """
    finite = tuple(finite_points) if finite_points is not None else points(m, r)
    if len(set(finite)) != products(m, r) - 1 or len(finite) != len(set(finite)):
        raise ValueError(f"F({m}, {r}) takes {products(m, r) - 1} distinct points, not {finite}.")
    if 1 not in finite:
        raise ValueError("The points must include 1: its product carries the bias.")

    bt, g, at_columns = [], [], []
    for a in finite:
        others = [b for b in finite if b != a]
        denominator = math.prod((a - b for b in others), start=Fraction(1))
        # The Lagrange polynomial of a, its denominator moved to G.
        bt.append([*_from_roots(others), Fraction(0)])
        g.append([a**k / denominator for k in range(r)])
        at_columns.append([a**i for i in range(m)])
    # Infinity: the leading coefficient, and the polynomial that vanishes at all other points.
    bt.append(_from_roots(finite))
    g.append([Fraction(k == r - 1) for k in range(r)])
    at_columns.append([Fraction(i == m - 1) for i in range(m)])

    for j in range(products(m, r)):
        scale_bt = _nearest_power_of_two(bt[j])
        scale_g = _nearest_power_of_two(g[j])
        bt[j] = [value / scale_bt for value in bt[j]]
        g[j] = [value / scale_g for value in g[j]]
        at_columns[j] = [value * scale_bt * scale_g for value in at_columns[j]]

    carrier = finite.index(Fraction(1))
    bias = [Fraction(0)] * products(m, r)
    bias[carrier] = 1 / at_columns[carrier][0]
    return ExactTransform(
        bt=tuple(tuple(row) for row in bt),
        g=tuple(tuple(row) for row in g),
        at=tuple(zip(*at_columns, strict=True)),
        bias=tuple(bias),
    )


@lru_cache(maxsize=64)
def matrices(m: int, r: int = 3) -> Transform:
    """F(m, r) as read-only float64 arrays. Raises ValueError as :func:`points` does."""
    exact = exact_matrices(m, r)
    return Transform(_array(exact.bt), _array(exact.g), _array(exact.at), _array(exact.bias))


def transform_weights(
    w: npt.NDArray[np.generic], m: int, dtype: npt.DTypeLike | None = None
) -> npt.NDArray[np.generic]:
    """Weights of the grouped Conv2D: U[j] = sum over k of G[j, k] w[:, :, k].

    w is (O, C/group, Kt, Kh, Kw); the result (J*O, C/group, Kh, Kw), j outermost, is for a Conv
    with J * group groups on frames of J*C channels. Computed in float64, then cast to ``dtype``,
    w's own by default.
    """
    out, channels, taps, height, width = w.shape
    g = matrices(m, taps).g
    u = times_taps(g, w.transpose(2, 0, 1, 3, 4), w.dtype if dtype is None else dtype)
    return u.reshape(len(g) * out, channels, height, width)


def times_taps(
    g: Array, taps: npt.NDArray[np.generic], dtype: npt.DTypeLike
) -> npt.NDArray[np.generic]:
    """G (J, taps) times taps (taps, O, ...), summed in float64: (J, O, ...) of ``dtype``."""
    u = np.empty((len(g), *taps.shape[1:]), dtype)
    for o in range(taps.shape[1]):  # so that no more than one is held in float64
        u[:, o] = np.tensordot(g, taps[:, o].astype(np.float64), 1)
    return u


def transform_bias(b: npt.NDArray[np.generic], m: int, r: int = 3) -> npt.NDArray[np.generic]:
    """The bias (J*O,) of the grouped Conv2D from b (O,): b times a power of two on one product."""
    return np.kron(matrices(m, r).bias, b.astype(np.float64)).astype(b.dtype)


def data_matrix(tiles: int, m: int, frames: int | None = None, r: int = 3) -> Array:
    """`Transform.data` of F(m, r): (J * tiles, frames + r - 1).

    ``frames`` is the number of output frames wanted, tiles * m by default; fewer leave out columns,
    as if zero frames followed x.
    """
    frames = _checked_frames(tiles, m, frames)
    return matrices(m, r).data(tiles)[:, : frames + r - 1]


def output_matrix(tiles: int, m: int, frames: int | None = None, r: int = 3) -> Array:
    """`Transform.output` of F(m, r): (frames, J * tiles); fewer frames leave out the last rows."""
    frames = _checked_frames(tiles, m, frames)
    return matrices(m, r).output(tiles)[:frames]


def _array(rows: Sequence[Sequence[Fraction]] | Sequence[Fraction]) -> Array:
    """A read-only float64 array: :func:`matrices` hands the same one to every caller."""
    array = np.array(rows, dtype=np.float64)
    array.flags.writeable = False
    return array


def _checked_frames(tiles: int, m: int, frames: int | None) -> int:
    if frames is None:
        return tiles * m
    if not (tiles - 1) * m < frames <= tiles * m:
        raise ValueError(f"{tiles} tiles of {m} frames are not what {frames} frames need.")
    return frames


def _from_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the product of (x - root)."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [root * value for value in coefficients] + [Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _nearest_power_of_two(row: Sequence[Fraction]) -> Fraction:
    """The power of two nearest, in ratio, to the Euclidean norm of the row."""
    return Fraction(2) ** round(math.log2(sum(value * value for value in row)) / 2)
