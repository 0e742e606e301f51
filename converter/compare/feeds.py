"""Seeded inputs for a graph, and legal sizes for the dimensions that it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from converter.compare.interface import TensorSpec, show_shape
from converter.compare.open_size import OpenSize, parse
from converter.errors import CannotCompareError, UserError

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = dict[str, tuple[int, ...]]
Symbol = str

# Height differs from width where the graph allows it, so that swapping them is noticed.
_HEIGHTS_AND_WIDTHS = ((8, 12), (8, 8), (16, 24), (16, 16), (32, 32))
_FRAMES = (3, 5, 4, 1, 9, 17)
_UNKNOWN_CHANNELS = 4


@dataclass(frozen=True)
class _Rung:
    """One try: a size for every role that a dynamic dimension can have."""

    batch: int
    channels: int
    frames: int
    height: int
    width: int


def shape_ladder(
    inputs: tuple[TensorSpec, ...], model: onnx.ModelProto, given: Mapping[str, tuple[int, ...]]
) -> Iterator[Shapes]:
    """Shapes to try, smallest first; a single one when nothing is left open.

    Dimensions of one symbol get one size, and `8*H` eight times that of `H`. Raises `UserError`
    when `given` names an unknown input or contradicts what the graph states.
    """
    known = _check_given(inputs, given)
    tried: list[Shapes] = []
    for height, width in _HEIGHTS_AND_WIDTHS:
        for frames in _FRAMES:
            sizes = dict(known)
            for spec in inputs:
                if spec.name not in given:
                    rung = _Rung(1, _channels(spec, model), frames, height, width)
                    _fill(spec, rung, sizes)
            shapes = {spec.name: _resolve(spec, sizes, given) for spec in inputs}
            if shapes not in tried:
                tried.append(shapes)
                yield shapes


def make_feed(inputs: tuple[TensorSpec, ...], shapes: Shapes, seed: int) -> dict[str, Array]:
    """Standard normal floats, bytes, other integers 0 to 3, and fair booleans, all of the seed."""
    random = np.random.default_rng(seed)
    return {spec.name: _values(spec, shapes[spec.name], random) for spec in inputs}


def example_shape(spec: TensorSpec) -> str:
    """What `--shape` could be given for this input: NAME=1x16x3x8x8."""
    if spec.dims is None:
        return f"{spec.name}=1x16x3x8x8"
    sizes: dict[Symbol, int] = {}
    _fill(spec, _Rung(1, _UNKNOWN_CHANNELS, 3, 8, 8), sizes)
    return f"{spec.name}={show_shape(_resolve(spec, sizes, {}))}"


def _check_given(
    inputs: tuple[TensorSpec, ...], given: Mapping[str, tuple[int, ...]]
) -> dict[Symbol, int]:
    """The sizes that the given shapes fix."""
    specs = {spec.name: spec for spec in inputs}
    sizes: dict[Symbol, int] = {}
    for name, shape in given.items():
        if name not in specs:
            known = ", ".join(specs) or "none"
            raise UserError(f"--shape names {name!r}, but the graph's inputs are: {known}.")
        shown = f"--shape {name}={show_shape(shape)}"
        if any(size < 1 for size in shape):
            raise UserError(f"{shown}: every size must be at least 1.")
        dims = specs[name].dims
        if dims is None:
            continue
        if len(dims) != len(shape):
            raise UserError(f"{shown} has rank {len(shape)}, but the input is {specs[name]}.")
        for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
            opened = None if isinstance(dim, int) else _open_size(name, axis, dim)
            expected = dim if opened is None else _bound(opened, size, sizes) or dim
            if expected != size:
                raise UserError(
                    f"{shown} has {size} on axis {axis}, but it must be {expected}: "
                    f"the input is {specs[name]}."
                )
    for spec in inputs:
        if spec.dims is None and spec.name not in given:
            raise UserError(
                f"the graph does not state the shape of its input {spec.name}; "
                f"give it by --shape {example_shape(spec)}."
            )
    return sizes


def _bound(opened: OpenSize, size: int, sizes: dict[Symbol, int]) -> int | None:
    """What the size must be by its symbol, which `size` decides if nothing has yet; None if it
    is no such multiple.
    """
    k = opened.solve(size)
    return None if k is None else opened.size(sizes.setdefault(opened.symbol, k))


def _open_size(name: str, axis: int, dim: str | None) -> OpenSize:
    """Dimensions that the graph calls by one name are one; a nameless one stands alone."""
    return OpenSize(f"axis {axis} of {name}") if dim is None else parse(dim)


def _fill(spec: TensorSpec, rung: _Rung, sizes: dict[Symbol, int]) -> None:
    """Give a size to every symbol of the input that has none yet."""
    dims = spec.dims or ()
    roles = _roles(len(dims), rung)
    for axis, dim in enumerate(dims):
        if not isinstance(dim, int):
            size = _open_size(spec.name, axis, dim)
            # A multiple makes the input large; half of what is usual keeps two frames and rows.
            usual = roles[axis] if size.plain else (roles[axis] + 1) // 2
            sizes.setdefault(size.symbol, usual)


def _roles(rank: int, rung: _Rung) -> list[int]:
    """A size per axis, by the usual order of axes at that rank."""
    if rank == 5:
        return [rung.batch, rung.channels, rung.frames, rung.height, rung.width]
    if rank == 4:
        return [rung.batch, rung.channels, rung.height, rung.width]
    if rank >= 2:
        return [rung.batch, *[rung.frames] * (rank - 2), rung.width]
    return [rung.frames] * rank


def _channels(spec: TensorSpec, model: onnx.ModelProto) -> int:
    """The channels that the first convolution of this input expects, if its weights tell."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == spec.name and node.input[1] in weights:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(weights[node.input[1]][1] * group)
    return _UNKNOWN_CHANNELS


def _resolve(
    spec: TensorSpec, sizes: Mapping[Symbol, int], given: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    if spec.name in given:
        return tuple(given[spec.name])
    dims = spec.dims or ()
    opened = {
        axis: _open_size(spec.name, axis, dim)
        for axis, dim in enumerate(dims)
        if not isinstance(dim, int)
    }
    return tuple(
        dim if isinstance(dim, int) else opened[axis].size(sizes[opened[axis].symbol])
        for axis, dim in enumerate(dims)
    )


def _values(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if spec.elem_type == TensorProto.BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    if spec.elem_type == TensorProto.BFLOAT16:  # older onnx calls it float32
        return random.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type))
    if dtype == np.uint8:  # pixels, which no index is
        return random.integers(0, 256, shape, np.uint8)
    if dtype.kind in "iu":
        return random.integers(0, 4, shape).astype(dtype)
    if dtype == np.float64:
        return random.standard_normal(shape)
    if dtype in (np.float32, np.float16):
        return random.standard_normal(shape, np.float32).astype(dtype, copy=False)
    raise CannotCompareError(f"input {spec} has a type that cannot be fed.")
