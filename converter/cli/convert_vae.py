"""`convert-vae INPUT OUTPUT`."""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal
from rich.markup import escape

from converter import convert_stream, growth
from converter.choice import EXACT, FAST
from converter.cli.common import (
    EXIT_DIFFERENT,
    EXIT_EQUAL,
    exit_codes,
    merge_pins,
    parse_pairs,
    parse_shapes,
    provider_choice,
    reader_may_leave,
)
from converter.cli.progress import progress
from converter.convert import Options
from converter.convert_stream import StreamResult
from converter.errors import UserError
from converter.kernels import GENERIC, TARGETS
from converter.manifest import is_manifest
from converter.output_files import refuse_to_replace, write_text
from converter.plan import AUTO, Plan, read_pins
from converter.precision import CONV, FP32, PRECISIONS, SCOPES
from converter.race import run
from converter.report.diff_file import check_report_path, write_report
from converter.report.terminal import console, print_plan, print_summary, print_verdict
from converter.result import ConvertResult
from converter.rewrites import BY_NAME, KEEP
from converter.tune import Tuner, tuner
from converter.version import VERSION

PHASES = {
    "load": "reading the graph",
    "plan": "planning",
    "rewrite": "rewriting the graph",
    "save": "writing the weights",
    "validate": "validating",
}


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):
        raise click.BadParameter("nan is not a number.")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("input", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path), required=False)
@click.option(
    "--strategy",
    type=click.Choice([AUTO, *BY_NAME, KEEP]),
    default=AUTO,
    show_default=True,
    help="How to rewrite each Conv3D; auto takes the cheapest whose preconditions hold.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="NODE=STRATEGY",
    help="Another strategy for one node, or for all that a glob matches. Repeatable.",
)
@click.option(
    "--accuracy",
    type=click.Choice([FAST, EXACT]),
    default=FAST,
    show_default=True,
    help="fast lets auto take Winograd, whose roundings differ; exact does not.",
)
@click.option(
    "--tune", is_flag=True, help="Time every candidate of every distinct Conv3D on the provider."
)
@click.option(
    "--tuning-cache",
    type=click.Path(path_type=Path),
    help="File of measured times, reused and shareable. Default: in the user's cache folder.",
)
@click.option(
    "--layout/--no-layout",
    default=True,
    show_default=True,
    help="Keep the tensors between rewritten Convs in frame-major layout.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=1),
    help="The opset of the output. Default: keep 11 to 18, else go to the nearer of the two.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default=GENERIC,
    show_default=True,
    help="The runtime that shall take every node: chooses the opset, and says what falls to the "
    "CPU there.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=FP32,
    show_default=True,
    help="fp16 and bf16 halve the file; fp32 leaves all types as they are.",
)
@click.option(
    "--precision-scope",
    type=click.Choice(SCOPES),
    default=CONV,
    show_default=True,
    help="What --precision lowers: convolutions, or all but norms and softmax.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, one line a Conv3D; write nothing.")
@click.option("--plan-out", type=click.Path(path_type=Path), help="Save the plan as JSON.")
@click.option("--plan-in", type=click.Path(path_type=Path), help="Replay a saved plan.")
@click.option(
    "--external-data",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Weights in a file of their own: auto if the input's are, or above 256 MB.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Compare OUTPUT with INPUT, layer by layer too, in a .html, .md or .json file.",
)
@click.option(
    "--min-psnr",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DB",
    help="Least PSNR of every output in the validation. auto gives Winograd smaller tiles, or does "
    "without, as far as that takes. Default: what the precision explains.",
)
@click.option(
    "--memory-growth",
    type=click.FloatRange(min=0),
    default=growth.DEFAULT,
    show_default=True,
    callback=_number,
    metavar="PERCENT",
    help="How much more memory than INPUT a run of OUTPUT may take, by estimate; auto gives "
    "Winograd smaller tiles, or does without. inf sets no limit, nor do sizes that are open.",
)
@click.option("--no-validate", is_flag=True, help="Do not run both graphs and compare.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x16x3x8x8",
    help="The shape of an input in the validation, where it is dynamic. Repeatable.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the validation feed.",
)
@provider_choice(" of the validation and of --tune")
@click.option("--keep-invalid", is_flag=True, help="Write OUTPUT even if the validation fails.")
@click.option("--strict", is_flag=True, help="Fail rather than leave a Conv3D in the graph.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT, or the plan, if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print the plan too, and what is going on.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but notes and errors.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    input: Path,
    output: Path | None,
    pins: tuple[str, ...],
    shapes: tuple[str, ...],
    provider_options: tuple[str, ...],
    plan_in: Path | None,
    plan_out: Path | None,
    no_validate: bool,
    report: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    debug: bool,
    tune: bool,
    tuning_cache: Path | None,
    **options: Any,
) -> int:
    """Replace every Conv3D of the ONNX graph INPUT by exactly equal Conv2D, into OUTPUT.

    INPUT may also be the manifest of a decoder in stream form; OUTPUT is one, too, then.

    Any ONNX graph will do; names, types and shapes of its inputs and outputs stay. What cannot be
    proven equal is left as it was, with the reason. The result is validated: both graphs run on
    the same feed, and OUTPUT is written only if they agree.

    Exit code: 0 done and equal; 1 the numbers differ by more than the precision explains; 2 the
    input or the usage is wrong.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s")
    if output is None and not options["dry_run"]:
        raise UserError("name an OUTPUT file, or give --dry-run.")
    if plan_out and is_manifest(input):
        raise UserError("--plan-out takes the plan of one graph; a manifest has two.")
    if plan_out:
        _check_plan_out(plan_out, input, output, options["overwrite"])
    if report:
        _check_report(report, input, output)
    chosen = merge_pins(read_pins(plan_in) if plan_in else {}, parse_pairs("--pin", pins))
    request = Options(
        pins=chosen,
        shapes=parse_shapes(shapes),
        validate=not no_validate,
        provider_options=parse_pairs("--provider-option", provider_options),
        **options,
    )
    with progress(quiet or as_json) as show:
        notify = _named(show)
        if tune:
            request = replace(request, choose=_tuner(request, tuning_cache, notify))
        result: ConvertResult | StreamResult
        with _times_kept(request):
            if is_manifest(input):
                result = convert_stream.run(input, output, request, notify)
            else:
                result = run(input, output, request, notify)
        if report and output is not None and isinstance(result, ConvertResult) and result.written:
            _report(report, input, output, request, show)
    if plan_out and isinstance(result, ConvertResult):
        _save_plan(plan_out, result.plan)
    with reader_may_leave():
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2))
        else:
            _show_all(result, verbose, quiet)
    return EXIT_EQUAL if result.equal else EXIT_DIFFERENT


def _named(show: Callable[[str], None]) -> Callable[[str], None]:
    return lambda phase: show(PHASES.get(phase, phase))


def _check_report(report: Path, input: Path, output: Path | None) -> None:
    check_report_path(report)
    if is_manifest(input):
        raise UserError("--report compares two graphs, and INPUT is a set of streaming graphs.")
    if output is not None and input.absolute() == output.absolute():
        raise UserError("--report needs INPUT to compare with, so OUTPUT cannot be the same file.")


def _report(
    report: Path, input: Path, output: Path, options: Options, notify: Callable[[str], None]
) -> None:
    """The comparison of `diff-vae --layers`, on the feed of the validation."""
    # Imported here: it needs onnxruntime, an extra, and a conversion alone needs none.
    from converter.compare.diff import DiffRequest, diff
    from converter.compare.feeding import FeedPlan

    feeds = FeedPlan(seed=options.seed, shapes=options.shapes)
    request = DiffRequest(
        feeds,
        provider=options.provider,
        settings=options.session_settings,
        layers=True,
        pictures=True,
    )
    found = diff(input, (output,), request, notify)
    command = ["diff-vae", str(input), str(output), "--layers", "--seed", str(options.seed)]
    for name, shape in options.shapes.items():
        command += ["--shape", f"{name}={'x'.join(map(str, shape))}"]
    write_report(report, replace(found, command=shlex.join(command)))


def _tuner(request: Options, cache: Path | None, notify: Callable[[str], None]) -> Tuner:
    return tuner(
        request.provider,
        request.accuracy,
        cache,
        lambda node, strategy: notify(f"timing {strategy} for {node}"),
        request.session_settings,
    )


@contextmanager
def _times_kept(request: Options) -> Iterator[None]:
    """Ctrl-C within says what it leaves: the times that were measured."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not isinstance(request.choose, Tuner) or not request.choose.cache.path.exists():
            raise
        raise UserError(
            "interrupted; no graph was written. The times measured so far are kept in "
            f"{request.choose.cache.path}, and the same command goes on from there."
        ) from error


def _check_plan_out(plan: Path, input: Path, output: Path | None, overwrite: bool) -> None:
    if plan.resolve() in {p.resolve() for p in (input, output) if p is not None}:
        raise UserError(f"--plan-out {plan} is the model itself; name another file.")
    refuse_to_replace(plan, overwrite)


def _save_plan(path: Path, plan: Plan) -> None:
    try:
        write_text(path, json.dumps(plan.to_json(), indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"the plan could not be saved in {path} ({error.strerror}); all else was done."
        ) from error


def _show_all(result: ConvertResult | StreamResult, verbose: bool, quiet: bool) -> None:
    if isinstance(result, ConvertResult):
        _show(result, verbose, quiet)
        return
    for role, graph in result.graphs.items():
        if not quiet:
            console().print(f"[bold]{role}[/bold]")
        _show(graph, verbose, quiet)
    if result.data_bytes is not None and not quiet:
        console().print(
            f"written: {escape(str(result.output))}, the weights of both graphs are "
            f"{decimal(result.data_bytes)}",
            soft_wrap=True,
        )


def _show(result: ConvertResult, verbose: bool, quiet: bool) -> None:
    if quiet:
        for note in result.notes:
            click.echo(f"note: {note}", err=True)
        if not result.equal and result.validation is not None:
            click.echo(result.validation.sentence(), err=True)
        return
    out = console()
    if verbose or result.after is None:
        print_plan(out, result.plan)
    if result.after is not None:
        print_summary(out, result)
    print_verdict(out, result, verbose)


if __name__ == "__main__":
    main()
