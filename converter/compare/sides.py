"""What is compared: a graph, the outputs that one gave elsewhere, saved as .npz, or upstream's own
`decode` or `encode` in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from converter.compare.feeds import Array
from converter.compare.interface import (
    Interface,
    TensorSpec,
    load_skeleton,
    read_interface,
    show_shape,
)
from converter.compare.running import Runner, make_runner
from converter.compare.saved_file import open_saved
from converter.compare.spool import Spool
from converter.compare.stored_array import AnyArray
from converter.errors import UserError
from converter.session import SessionSettings

FLOATS = tuple(np.dtype(kind) for kind in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64))


TORCH = "torch:"
"""Before the name of a folder or preset whose `decode` PyTorch is to run."""

TORCH_ENCODER = "torch-encoder:"
"""The same for `encode`."""


@dataclass(frozen=True)
class Graph:
    """An ONNX file, its interface, and its skeleton."""

    path: Path
    interface: Interface
    skeleton: onnx.ModelProto

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The name of its saved outputs, without a suffix."""
        return self.path.stem

    @property
    def output_names(self) -> list[str]:
        """In the graph's order."""
        return [spec.name for spec in self.interface.outputs]

    def output_specs(self) -> list[dict[str, TensorSpec]]:
        """By name; the same for every feed."""
        return [{spec.name: spec for spec in self.interface.outputs}]

    def runner(self, provider: str, settings: SessionSettings) -> Runner:
        """What runs it."""
        return make_runner(self.path, provider, settings)


@dataclass(frozen=True)
class Upstream:
    """A decoder in PyTorch: a source of `export-vae`, and the seed of its weights if it has none.

    Or, by the prefix, an encoder. It looks like a graph without nodes, whose inputs are open but
    for the channels.
    """

    prefix: str
    source: str
    seed: int | None
    interface: Interface
    skeleton: onnx.ModelProto

    @property
    def path(self) -> Path:
        """As the user wrote it."""
        return Path(self.prefix + self.source)

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.prefix + Path(self.source).name

    @property
    def stem(self) -> str:
        """The name of its saved outputs, without a suffix."""
        return Path(self.source).name

    @property
    def output_names(self) -> list[str]:
        """One, the video or the latent."""
        return [spec.name for spec in self.interface.outputs]

    def output_specs(self) -> list[dict[str, TensorSpec]]:
        """By name; the same for every feed."""
        return [{spec.name: spec for spec in self.interface.outputs}]

    def runner(self, provider: str, settings: SessionSettings) -> Runner:
        """PyTorch on the CPU, whatever the provider of the graphs."""
        # Imported here: it needs PyTorch, an extra, and a comparison of graphs needs none.
        from converter.export_reference import UpstreamRunner

        return UpstreamRunner(self.source, self.seed, encoder=self.prefix == TORCH_ENCODER)


@dataclass(frozen=True)
class Saved:
    """Outputs from a file, one dictionary a feed."""

    path: Path
    runs: tuple[dict[str, AnyArray], ...]

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.path.name

    @property
    def output_names(self) -> list[str]:
        """In the file's order."""
        return list(self.runs[0])

    def output_specs(self) -> list[dict[str, TensorSpec]]:
        """By name, a dictionary a feed."""
        return [{name: spec_of(name, array) for name, array in run.items()} for run in self.runs]


Runnable = Graph | Upstream
Side = Runnable | Saved


def open_side(path: Path, spool: Spool, weights_seed: int | None = None) -> Side:
    """A graph or saved outputs, by the file's suffix, or what PyTorch runs, by a prefix.

    Raises `UserError` for anything else. `weights_seed` is for presets without weights; `spool`
    takes what saved outputs need to be unpacked.
    """
    prefix = next((p for p in (TORCH, TORCH_ENCODER) if str(path).startswith(p)), None)
    if prefix is not None:
        from converter.export_reference import upstream_interface  # see `Upstream.runner`

        source = str(path)[len(prefix) :]
        found = upstream_interface(source, weights_seed, encoder=prefix == TORCH_ENCODER)
        return Upstream(prefix, source, weights_seed, found, onnx.ModelProto())
    if path.suffix == ".npz":
        return Saved(path, tuple(open_saved(path, spool)))
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file.")
    skeleton = load_skeleton(path)
    if not skeleton.HasField("graph"):
        raise UserError(f"{path} is not an ONNX model: it holds no graph.")
    return Graph(path, read_interface(skeleton, path), skeleton)


def leading(sides: tuple[Side, ...]) -> Runnable | None:
    """What feeds are made for: the first graph, else the first side that takes feeds at all."""
    takes_feeds = [side for side in sides if isinstance(side, Runnable)]
    return next(
        (side for side in takes_feeds if isinstance(side, Graph)), next(iter(takes_feeds), None)
    )


def pair(
    kind: str, reference: Side, candidate: Side, left: Sequence[str], right: Sequence[str]
) -> dict[str, str]:
    """The candidate's name for each of the reference's: by name, else by position.

    Raises `UserError` where the counts differ, which says what was tried.
    """
    if set(left) == set(right):
        return {name: name for name in left}
    if len(left) == len(right):
        return dict(zip(left, right, strict=True))
    raise UserError(
        f"the {kind} do not match: {reference.path} has {', '.join(left) or 'none'}, "
        f"{candidate.path} has {', '.join(right) or 'none'}; tried by name and by position."
    )


def pair_inputs(lead: Runnable, other: Runnable) -> dict[str, TensorSpec]:
    """For each input of `lead` that of the other graph; types may differ among floats."""
    names = pair(
        "inputs",
        lead,
        other,
        [spec.name for spec in lead.interface.inputs],
        [spec.name for spec in other.interface.inputs],
    )
    specs = {spec.name: spec for spec in other.interface.inputs}
    pairs = {spec: specs[names[spec.name]] for spec in lead.interface.inputs}
    for left, right in pairs.items():
        if not _compatible(left, right):
            how = "by name" if left.name == right.name else "by position"
            raise UserError(
                f"the inputs do not match ({how}): {left} in {lead.path}, {right} in {other.path}."
            )
    return {left.name: right for left, right in pairs.items()}


def pair_outputs(reference: Side, candidate: Side) -> dict[str, str]:
    """The candidate's name for each of the reference's outputs.

    Raises `UserError` where the counts differ, and where shapes or types are known to.
    """
    names = pair("outputs", reference, candidate, reference.output_names, candidate.output_names)
    left, right = reference.output_specs(), candidate.output_specs()
    feeds = max(len(left), len(right))
    if len(left) == 1:
        left *= feeds
    if len(right) == 1:
        right *= feeds
    for feed, (ones, others) in enumerate(zip(left, right, strict=False)):
        for name, other in names.items():
            if not _compatible(ones[name], others[other]):
                where = feed if feeds > 1 else None
                raise not_alike(reference.path, ones[name], candidate.path, others[other], where)
    return names


def not_alike(
    reference: Path, left: TensorSpec, candidate: Path, right: TensorSpec, feed: int | None = None
) -> UserError:
    """Which side has which shape and type of an output, and how the two were paired."""
    how = "by name" if left.name == right.name else "by position"
    where = "" if feed is None else f", feed {feed}"
    return UserError(
        f"the outputs do not match ({how}{where}): {left} in {reference}, {right} in {candidate}."
    )


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    """The NumPy type of a tensor."""
    bfloat16 = spec.elem_type == onnx.TensorProto.BFLOAT16  # older onnx calls it float32
    name = ml_dtypes.bfloat16 if bfloat16 else onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
    found: np.dtype[Any] = np.dtype(name)
    return found


def check_feed(spec: TensorSpec, array: Array, where: str) -> Array:
    """The array in the input's type; raises `UserError` if it does not fit or has a NaN."""
    wanted = dtype_of(spec)
    if array.dtype != wanted and not (array.dtype in FLOATS and wanted in FLOATS):
        raise UserError(f"{where} is {array.dtype}, but the input is {spec}.")
    if not _fits(spec, array.shape):
        raise UserError(f"{where} has shape {show_shape(array.shape)}, but the input is {spec}.")
    if array.dtype in FLOATS and not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise UserError(f"{where} is NaN or infinite at {first}; a feed must be finite.")
    return array.astype(wanted, copy=False)


def alike(reference: AnyArray, candidate: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Both arrays in the wider type where both are floats, else as they are."""
    if reference.dtype == candidate.dtype:
        return reference, candidate
    if reference.dtype not in FLOATS or candidate.dtype not in FLOATS:
        return reference, candidate
    both = (reference.dtype, candidate.dtype)
    wide = np.dtype(np.float64 if np.dtype(np.float64) in both else np.float32)
    return reference.astype(wide, copy=False), candidate.astype(wide, copy=False)


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    if spec.dims is None:
        return True
    return len(spec.dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.dims, shape, strict=True)
    )


def spec_of(name: str, array: AnyArray) -> TensorSpec:
    """What an array is, as a graph would state it."""
    return TensorSpec(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _compatible(left: TensorSpec, right: TensorSpec) -> bool:
    types = (dtype_of(left), dtype_of(right))
    if types[0] != types[1] and not (types[0] in FLOATS and types[1] in FLOATS):
        return False
    if left.dims is None or right.dims is None:
        return True
    return len(left.dims) == len(right.dims) and all(
        not (isinstance(a, int) and isinstance(b, int)) or a == b
        for a, b in zip(left.dims, right.dims, strict=True)
    )
