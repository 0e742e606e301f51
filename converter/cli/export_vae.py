"""`export-vae SOURCE OUT.onnx`."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from rich import box
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from converter.cli.common import (
    EXIT_DIFFERENT,
    EXIT_EQUAL,
    exit_codes,
    provider_choice,
    reader_may_leave,
    session_settings,
)
from converter.errors import UserError
from converter.export import ExportResult, export
from converter.export_common import CHECK_PROVIDER, need_extra
from converter.export_stream import StreamExportResult, export_stream
from converter.origin import GraphOptions
from converter.report.terminal import console, print_written
from converter.version import VERSION

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
PHASES = {
    "open": "reading the weights",
    "trace": "tracing the model",
    "write": "writing the graph",
    "check": "comparing with upstream",
}


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the presets and leave."""
    if not wanted or context.resilient_parsing:
        return
    need_extra()
    from models.catalog import entries

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("preset", no_wrap=True)
    for heading in ("family", "latent", "video's T", "its H, W", "forms"):
        table.add_column(heading)
    table.add_column("parameters", justify="right", no_wrap=True)
    for entry in entries():
        forms = ", ".join(["clip", *["stream"] * entry.stream, *["encoder"] * entry.encoder])
        least = f" with H and W >= {entry.least}" if entry.least > 1 else ""
        latent = f"Nx{entry.channels}xTxHxW{least}"
        sizes = (latent, entry.frames, f"* {entry.space}")
        table.add_row(entry.preset, entry.family, *sizes, forms, f"{entry.parameters:,}")
    console().print(table)
    context.exit()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Show the presets: family, shape of the latent, sizes of the video, forms, parameters.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Random weights of this seed.")
@click.option(
    "--latent",
    metavar="NxCxTxHxW",
    help="Shape of the input, such as 1x16x3x16x16. Default: 1xCx3x16x16; T = K with --stream.",
)
@click.option(
    "--encoder",
    is_flag=True,
    help="Export the encoder: a video goes in, the mean of its latent's distribution comes out.",
)
@click.option(
    "--video",
    metavar="NxCxTxHxW",
    help="Shape of the input with --encoder, such as 1x3x9x128x128. Default: what the default of "
    "--latent decodes to.",
)
@click.option(
    "--dynamic",
    is_flag=True,
    help="Let T, H and W have any size; with --stream H and W; with --encoder those of any latent.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Two graphs that decode a clip of any length chunk by chunk; OUT is OUT.json.",
)
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    metavar="K",
    help="Latent frames in a chunk, with --stream. Default: 1.",
)
@click.option(
    "--denormalize",
    is_flag=True,
    help="Take the pipeline's latents: latents_mean and latents_std, or the scaling factor, are "
    "applied in the graph.",
)
@click.option(
    "--normalize",
    is_flag=True,
    help="With --encoder, make the pipeline's latents: the inverse of --denormalize.",
)
@click.option(
    "--uint8",
    is_flag=True,
    help="Make pixels: uint8 (N, T, H, W, 3), clamped, scaled, rounded; with --encoder, take them.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    default="fp32",
    show_default=True,
    help="Type of the stored weights; the graph computes in fp32.",
)
@click.option("--opset", type=int, default=18, show_default=True, help="18 to 25.")
@click.option("--no-check", is_flag=True, help="Do not run the graph against upstream.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Largest absolute error of the check. Default: 1e-5, or four times upstream's own "
    "rounding error where that is more.",
)
@provider_choice(" of the check", CHECK_PROVIDER)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print the nodes by operator, too.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    source: str,
    out: Path,
    seed: int | None,
    latent: str | None,
    encoder: bool,
    video: str | None,
    dynamic: bool,
    stream: bool,
    chunk: int | None,
    denormalize: bool,
    normalize: bool,
    uint8: bool,
    dtype: str,
    opset: int,
    no_check: bool,
    tolerance: float | None,
    provider: str,
    provider_options: tuple[str, ...],
    strict_provider: bool,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    debug: bool,
) -> int:
    """Export a PyTorch video decoder, or encoder, as one ONNX graph.

    SOURCE is a diffusers VAE folder (config.json and safetensors), the pipeline folder around it,
    one file of weights that fits a preset (.safetensors, .pth), or a preset (--list): the
    published configuration, with random weights (--seed).

    The graph decodes a whole clip and does not grow with its length. It is run against the
    original decoder before it is written.

    With --stream, OUT.json is a manifest of two graphs, one for the first chunk of a clip and one
    for all others, which hand on what their convolutions saw last.

    With --encoder, the graph is the encoder of the same autoencoder, video -> latent.

    Exit code: 0 done and equal; 1 the numbers differ by more than the tolerance, nothing was
    written; 2 the input or the usage is wrong.
    """
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if chunk is not None and not stream:
        raise UserError("--chunk is for --stream; give both or neither.")
    if encoder:
        _refuse_with_encoder(stream, latent, denormalize)
    elif video is not None or normalize:
        name = "--video" if video is not None else "--normalize"
        raise UserError(f"{name} is for --encoder; give both or neither.")
    if out.suffix == ".json" and not stream:
        raise UserError(f"{out} is named as a manifest: add --stream, or name a .onnx file.")
    exporter: Callable[..., ExportResult | StreamExportResult]
    if stream:
        exporter = partial(export_stream, chunk=chunk or 1)
    else:
        exporter = partial(export, video=None if video is None else _parse_shape("video", video))
    with _progress(quiet or as_json) as notify:
        result = exporter(
            source,
            out,
            seed=seed,
            latent=None if latent is None else _parse_shape("latent", latent),
            dynamic=dynamic,
            options=GraphOptions(
                denormalize=denormalize or normalize,
                uint8=uint8,
                encoder=encoder,
                weights=DTYPES[dtype],
            ),
            opset=opset,
            check=not no_check,
            tolerance=tolerance,
            provider=provider,
            settings=session_settings(provider_options, strict_provider),
            overwrite=overwrite,
            notify=notify,
        )
    with reader_may_leave():
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=2))
        elif quiet:
            pass
        elif isinstance(result, StreamExportResult):
            _show_stream(result)
        else:
            _show(result, verbose)
    if result.equal:
        return EXIT_EQUAL
    click.echo(f"error: {result.sentence()}; {out} was not written.{_hint(result)}", err=True)
    return EXIT_DIFFERENT


def _hint(result: ExportResult | StreamExportResult) -> str:
    error = result.max_abs_error
    if error is None or not math.isfinite(error):
        return ""
    step = 10.0 ** (math.floor(math.log10(error)) - 1)
    return f" --tolerance {math.ceil(error / step) * step:.1e} would have passed."


def _refuse_with_encoder(stream: bool, latent: str | None, denormalize: bool) -> None:
    if stream:
        raise UserError("an encoder has no stream form here: leave out --stream, or --encoder.")
    if latent is not None:
        raise UserError("an encoder takes a video: give its shape by --video, not --latent.")
    if denormalize:
        raise UserError(
            "an encoder makes latents: --normalize makes the pipeline's, --denormalize is for the "
            "decoder."
        )


def _parse_shape(kind: str, text: str) -> tuple[int, ...]:
    sizes = text.lower().split("x")
    if not all(size.isdecimal() for size in sizes):
        example = "1x16x3x16x16" if kind == "latent" else "1x3x9x128x128"
        raise UserError(f"--{kind} {text} is not a shape such as {example}.")
    return tuple(int(size) for size in sizes)


def _show(result: ExportResult, verbose: bool) -> None:
    weights = "read" if result.seed is None else f"random, seed {result.seed}"
    dynamic = f", any {', '.join(result.dynamic)}" if result.dynamic else ""
    graph = result.graph
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("family", f"{result.family} ({escape(result.source)}, weights {weights})")
    rows = [("latent", f"{_dims(result.latent)}{dynamic}"), ("video", _dims(result.video))]
    for row in reversed(rows) if result.encoder else rows:
        table.add_row(*row)
    table.add_row("nodes", str(graph.node_count))
    if verbose:
        for op, count in graph.nodes.items():
            table.add_row(f"  {op}", str(count))
    table.add_row("Conv3D", str(graph.conv3d))
    table.add_row("parameters", f"{graph.parameters:,}")
    table.add_row("file size", decimal(graph.file_bytes))
    table.add_row("opset", str(graph.opset))
    _print(table, result)


def _show_stream(result: StreamExportResult) -> None:
    weights = "read" if result.seed is None else f"random, seed {result.seed}"
    dynamic = ", any H, W" if result.dynamic else ""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for role in result.graphs:
        table.add_column(role)
    graphs = result.graphs.values()
    table.add_row("nodes", *(str(graph.node_count) for graph in graphs))
    table.add_row("Conv3D", *(str(graph.conv3d) for graph in graphs))
    table.add_row("parameters", *(f"{graph.parameters:,}" for graph in graphs))
    table.add_row("file size", *(decimal(graph.file_bytes) for graph in graphs))
    out = console()
    out.print(f"family: {result.family} ({escape(result.source)}, weights {weights})")
    out.print(f"latent: {_dims(result.latent)}{dynamic}, a chunk of {result.chunk}")
    out.print(f"weights of both graphs: {decimal(result.data_bytes)}")
    _print(table, result)


def _print(table: Table, result: ExportResult | StreamExportResult) -> None:
    out = console()
    out.print(table)
    out.print("time: " + ", ".join(f"{name} {s:.2f} s" for name, s in result.seconds.items()))
    colour = "green" if result.equal else "red"
    out.print(f"[{colour}]check:[/{colour}] {escape(result.sentence())}", soft_wrap=True)
    if result.written:
        data_file = result.graph.data_file if isinstance(result, ExportResult) else ""
        print_written(out, result.output, data_file)


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Names each phase on a terminal; silent when piped."""
    if quiet or not sys.stderr.isatty():
        yield lambda phase: None
        return
    with console(stderr=True).status("starting") as status:
        yield lambda phase: status.update(PHASES[phase])


if __name__ == "__main__":
    main()
