"""`check-vae MODEL --target rocm`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import onnx

from converter import model_file
from converter.cli.common import EXIT_DIFFERENT, EXIT_EQUAL, exit_codes, reader_may_leave
from converter.kernels import GENERIC, TARGETS, Target
from converter.model_file import Model
from converter.placement import Placement, place
from converter.report.terminal import console, print_placement
from converter.surgeon import default_opset
from converter.target import replace_lacking, suit
from converter.version import VERSION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Choice([t for t in TARGETS if t != GENERIC]),
    required=True,
    help="The runtime: onnxruntime's ROCm, MIGraphX, CUDA or CPU provider.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(model: Path, target: Target, as_json: bool, debug: bool) -> int:
    """Say which nodes of the ONNX graph MODEL a runtime's provider takes, and why not the others.

    Neither the runtime nor a device is needed: the answer comes from the kernel registries of the
    released packages. It says nothing about numbers or speed.

    Exit code: 0 every node is taken; 1 something falls to the CPU; 2 the input or the usage is
    wrong.
    """
    loaded = model_file.load(model)
    placement = place(loaded.proto, target)
    with reader_may_leave():
        if as_json:
            click.echo(json.dumps(placement.to_json(), indent=2))
        else:
            print_placement(console(), placement)
            advice = _advice(loaded, placement)
            if advice:
                click.echo(advice)
    return EXIT_EQUAL if placement.complete else EXIT_DIFFERENT


def _advice(model: Model, placement: Placement) -> str:
    """What `convert-vae --target` would improve, or empty."""
    if placement.complete:
        return ""
    suited = onnx.ModelProto()
    suited.CopyFrom(model.proto)
    suit(suited, placement.target, None)
    replaced = replace_lacking(suited, model.weights, placement.target)
    better = place(suited, placement.target)
    if len(better.fallbacks) + len(better.problems) >= (
        len(placement.fallbacks) + len(placement.problems)
    ):
        return ""
    left = "nothing" if better.complete else f"{len(better.fallbacks)} nodes"
    means = f" ({replaced})" if replaced else ""
    return (
        f"convert-vae --target {placement.target} brings the graph to opset "
        f"{default_opset(suited)}, where {left} would fall to the CPU{means}"
    )


if __name__ == "__main__":
    main()
