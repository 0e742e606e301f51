"""`diff-vae REFERENCE CANDIDATE [MORE...]`."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from converter.cli.common import (
    EXIT_DIFFERENT,
    EXIT_EQUAL,
    exit_codes,
    parse_shapes,
    provider_choice,
    reader_may_leave,
    session_settings,
)
from converter.cli.progress import progress
from converter.compare.diff import DiffRequest, diff
from converter.compare.feeding import FeedPlan
from converter.compare.gates import MIN_SSIM, Gates, Limits
from converter.compare.layers import SLICE
from converter.errors import UserError
from converter.providers import choose
from converter.report.diff_file import check_report_path, write_report
from converter.report.diff_terminal import print_diff
from converter.report.terminal import console, print_provider
from converter.version import VERSION

PATH = click.Path(path_type=Path)
GATE = "[NAME=]VALUE"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("reference", type=PATH)
@click.argument("candidates", type=PATH, nargs=-1)
@click.option(
    "--feed",
    "feed_files",
    type=PATH,
    multiple=True,
    help="Feed from a .npy, .npz, .safetensors or .pt file. Repeatable.",
)
@click.option(
    "--feeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many seeded feeds to run, where no --feed is given.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x16x3x8x8",
    help="The shape of an input of a seeded feed, where it is dynamic. Repeatable.",
)
@click.option("--save-inputs", type=PATH, help="Save the feeds in this .npz.")
@click.option("--save-outputs", type=PATH, help="Save each graph's outputs in this folder.")
@click.option(
    "--atol", multiple=True, metavar=GATE, help="Gate: |b - a| <= atol + rtol * |a| everywhere."
)
@click.option("--rtol", multiple=True, metavar=GATE, help="See --atol.")
@click.option("--min-psnr", multiple=True, metavar=GATE, help="Gate: PSNR in dB of the output.")
@click.option("--min-ssim", multiple=True, metavar=GATE, help="Gate: SSIM of the worst frame.")
@click.option(
    "--data-range",
    type=click.FloatRange(min=0, min_open=True),
    help="What PSNR and SSIM of a frame refer to, 2 for pixels in -1..1. Default: the reference's.",
)
@click.option("--frames/--no-frames", default=True, show_default=True, help="Compare frames.")
@click.option(
    "--layers",
    is_flag=True,
    help="Compare every Conv3D's output on every feed, and name the first to blame.",
)
@click.option(
    "--slice-size",
    type=click.IntRange(min=1),
    default=SLICE,
    show_default=True,
    help="Layers compared in one run: fewer need less memory and more runs.",
)
@click.option(
    "--weights-seed",
    type=click.IntRange(min=0),
    help="Random weights of this seed for a torch: or torch-encoder: preset, as those of "
    "export-vae's --seed.",
)
@provider_choice()
@click.option("--video", type=PATH, help="Write reference | candidate | difference: .mp4 or .webm.")
@click.option("--report", type=PATH, help="Write a report: .html, .md or .json.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print every frame too.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the verdict of a failure.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    reference: Path,
    candidates: tuple[Path, ...],
    report: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> int:
    """Run the same feeds through REFERENCE and every CANDIDATE, and compare each output.

    Each is an ONNX graph, or an .npz of outputs that --save-outputs wrote, here or elsewhere, or
    torch:SOURCE, upstream's own decode in PyTorch, of a diffusers VAE folder or a preset, or
    torch-encoder:SOURCE, its encode.
    Without any gate, the outputs may differ by what the graphs' precision explains.

    A gate is for all outputs, or for one: --atol 1e-3 --atol video=1e-2.

    Exit code: 0 every gate is passed; 1 one is not; 2 the input or the usage is wrong.
    """
    if report:
        check_report_path(report)
    request = replace(_request(options), pictures=report is not None)
    with progress(quiet or as_json) as notify:
        result = diff(reference, candidates, request, notify)
    result = replace(result, command=shlex.join(["diff-vae", *sys.argv[1:]]))
    if report:
        write_report(report, result)
    with reader_may_leave():
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2, allow_nan=False))
        elif not quiet:
            if any(path.suffix != ".npz" for path in (reference, *candidates)):
                print_provider(console(), choose(request.provider), verbose)
            print_diff(console(), result, frames=verbose)
        else:
            for candidate in result.candidates:
                if not candidate.passed:
                    click.echo(f"{candidate.run.path}: {candidate.sentence()}", err=True)
    return EXIT_EQUAL if result.passed else EXIT_DIFFERENT


def _request(options: dict[str, Any]) -> DiffRequest:
    feeds = FeedPlan(
        files=options.pop("feed_files"),
        count=options.pop("feeds"),
        seed=options.pop("seed"),
        shapes=parse_shapes(options.pop("shapes")),
    )
    given = {name: options.pop(name) for name in ("atol", "rtol", "min_psnr", "min_ssim")}
    settings = session_settings(options.pop("provider_options"), options.pop("strict_provider"))
    return DiffRequest(feeds=feeds, gates=parse_gates(given), settings=settings, **options)


def parse_gates(given: dict[str, Sequence[str]]) -> Gates:
    """`VALUE` for all outputs and `NAME=VALUE` for one, by the gate's name."""
    limits: dict[str, dict[str, float]] = {}
    for gate, values in given.items():
        for value in values:
            output, equals, text = value.rpartition("=")
            if equals and not output:
                raise _malformed(gate, value)
            limits.setdefault(output, {})[gate] = _number(gate, value, text)
    for_all = Limits(**limits.pop("", {}))
    return Gates(for_all, {output: Limits(**gates) for output, gates in limits.items()})


def _number(gate: str, value: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise _malformed(gate, value) from error
    if not 0 <= number < math.inf:
        raise UserError(f"{_option(gate)} {value} must be a finite number of at least 0.")
    if gate == MIN_SSIM and number > 1:
        raise UserError(f"{_option(gate)} {value}: SSIM is at most 1.")
    return number


def _malformed(gate: str, value: str) -> UserError:
    return UserError(f"{_option(gate)} {value!r} is not of the form VALUE or NAME=VALUE.")


def _option(gate: str) -> str:
    return f"--{gate.replace('_', '-')}"


if __name__ == "__main__":
    main()
