"""What can be known to be wrong before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converter.compare import frames
from converter.compare.diff_request import DiffRequest
from converter.compare.feeding import Feed, counted
from converter.compare.interface import TensorSpec
from converter.compare.room import check_run
from converter.compare.side_by_side import check_video_path
from converter.compare.sides import Graph, Runnable, Saved, Side, pair_inputs, pair_outputs
from converter.errors import UserError
from converter.output_files import check_writable
from converter.providers import choose

CPU = "cpu"

Pairs = tuple[dict[str, str], ...]
"""For each candidate, its name for each output of the reference."""


def check_paths(request: DiffRequest, sides: Sequence[Path]) -> None:
    """Raise `UserError` where something that is asked for cannot be written, or would replace what
    is compared.
    """
    if request.video:
        check_video_path(request.video)
    if request.save_inputs:
        if request.save_inputs.suffix != ".npz":
            raise UserError(f"--save-inputs {request.save_inputs}: the form is .npz.")
        check_writable("--save-inputs", request.save_inputs)
        _check_spared("--save-inputs", request.save_inputs, sides)
    folder = request.save_outputs
    if folder and folder.is_dir():
        check_writable("--save-outputs", folder / "outputs.npz")
    elif folder:
        if folder.exists():
            raise UserError(f"--save-outputs {folder} is a file; name a folder.")
        check_writable("--save-outputs", folder)


def check_sides(request: DiffRequest, lead: Runnable | None, sides: tuple[Side, ...]) -> Pairs:
    """How the outputs are paired; raises `UserError` where sides, feeds, gates or what is asked for
    do not go together, and where the provider does not work here.
    """
    if len(sides) < 2 and not (request.save_inputs or request.save_outputs):
        raise UserError("name a candidate to compare with, or save the outputs by --save-outputs.")
    if lead is None and (request.feeds.files or request.save_inputs or request.save_outputs):
        raise UserError("feeds and saved outputs need a graph, and every file here is an .npz.")
    if request.layers and not all(isinstance(side, Graph) for side in sides):
        raise UserError(
            "--layers needs ONNX graphs: saved outputs and torch: decoders hold no layers."
        )
    _check_saving(request, sides)
    if lead is not None:
        choose(request.provider)
        for side in sides:
            if isinstance(side, Runnable):
                pair_inputs(lead, side)
    pairs = tuple(pair_outputs(sides[0], side) for side in sides[1:])
    for name in request.gates.by_output:
        if name not in sides[0].output_names:
            known = ", ".join(sides[0].output_names)
            raise UserError(f"a gate names the output {name!r}; there are: {known}.")
    limits = [request.gates.limits, *request.gates.by_output.values()]
    if not request.frames and any(one.min_ssim is not None for one in limits):
        raise UserError("--min-ssim needs frames, which --no-frames leaves out.")
    if len(sides) > 1:
        _check_frames(request, sides[0])
    return pairs


def check_feeds(
    request: DiffRequest, lead: Runnable | None, sides: tuple[Side, ...], feeds: tuple[Feed, ...]
) -> None:
    """Raise `UserError` where saved outputs are of another number of feeds, or a run cannot fit."""
    saved = [side for side in sides if isinstance(side, Saved)]
    for side in saved:
        if feeds and len(side.runs) != len(feeds):
            raise UserError(
                f"{side.path} holds the outputs of {counted(len(side.runs))}, and there are "
                f"{len(feeds)}; give the same feeds by --feed."
            )
        if len(side.runs) != len(saved[0].runs):
            raise UserError(
                f"{saved[0].path} holds the outputs of {counted(len(saved[0].runs))}, {side.path} "
                f"of {len(side.runs)}."
            )
    if lead is None or choose(request.provider).name != CPU:
        return
    for graph in (side for side in sides if isinstance(side, Graph)):
        names = pair_inputs(lead, graph)
        for feed in feeds:
            check_run(graph, {names[n].name: array.shape for n, array in feed.arrays.items()})


def _check_saving(request: DiffRequest, sides: tuple[Side, ...]) -> None:
    if request.save_outputs is None:
        return
    names = [side.stem for side in sides if isinstance(side, Runnable)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--save-outputs would write {name}.npz twice; rename one of them.")
        target = request.save_outputs / f"{name}.npz"
        _check_spared("--save-outputs", target, [side.path for side in sides])


def _check_spared(option: str, target: Path, sides: Sequence[Path]) -> None:
    if target.resolve() in {side.resolve() for side in sides}:
        raise UserError(f"{option} would replace {target}, which is compared; name another place.")


def _check_frames(request: DiffRequest, reference: Side) -> None:
    may_have = any(map(_may_have_frames, reference.output_specs()[0].values()))
    if request.video and not may_have:
        raise UserError("--video needs an output with frames, (N, C, T, H, W) or (N, C, H, W).")
    if request.frames and may_have:
        frames.check_installed()


def _may_have_frames(spec: TensorSpec) -> bool:
    return spec.dims is None or len(spec.dims) in (4, 5)
