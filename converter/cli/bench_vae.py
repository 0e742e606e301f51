"""`bench-vae A.onnx B.onnx ...`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from converter.bench.bench import Request, bench_graphs
from converter.bench.rounds import Notify, Rules
from converter.bench.tables import print_result
from converter.cli.common import (
    EXIT_BAD_INPUT,
    EXIT_EQUAL,
    exit_codes,
    parse_shapes,
    provider_choice,
    reader_may_leave,
    session_settings,
)
from converter.providers import choose
from converter.report.terminal import console, print_provider
from converter.version import VERSION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("graphs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How often each graph runs, after a first run that does not count.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x16x3x8x8",
    help="The shape of an input where it is dynamic. Repeatable.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the feed."
)
@provider_choice()
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads within an operator on the CPU. Default: as onnxruntime chooses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    graphs: tuple[Path, ...],
    rounds: int,
    shapes: tuple[str, ...],
    seed: int,
    provider: str,
    provider_options: tuple[str, ...],
    strict_provider: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> int:
    """Measure how fast the ONNX GRAPHS run, against the first of them.

    They take turns (A B C A B C ...), each in a process of its own, on the same feed, and must
    have the same inputs and outputs. Beside them runs a matrix product, to show what part of the
    processor's speed they reach. Naming a graph twice shows how far noise alone goes.

    Ctrl-C ends the rounds and prints what was measured.

    Exit code: 0 done; 2 the input or the usage is wrong, or Ctrl-C was pressed.
    """
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    request = Request(
        rules=Rules(rounds),
        shapes=parse_shapes(shapes),
        seed=seed,
        provider=provider,
        settings=session_settings(provider_options, strict_provider),
        threads=threads,
    )
    with _progress(quiet) as notify:
        result = bench_graphs(graphs, request, notify)
    with reader_may_leave():
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2))
        else:
            print_result(console(), result)
            print_provider(console(), choose(provider), verbose=True)
    if result.interrupted:
        click.echo("error: interrupted; the rounds that were done are shown.", err=True)
        return EXIT_BAD_INPUT
    return EXIT_EQUAL


@contextmanager
def _progress(quiet: bool) -> Iterator[Notify]:
    """A bar with the time left on a terminal; silent when piped."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        refresh_per_second=1,  # drawing takes time from what is measured
    )
    with bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


if __name__ == "__main__":
    main()
