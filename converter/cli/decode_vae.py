"""`decode-vae MODEL LATENTS OUT`."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO

import click
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from converter import memory
from converter.cli.common import (
    EXIT_BAD_INPUT,
    EXIT_EQUAL,
    exit_codes,
    provider_choice,
    read_token,
    reader_may_leave,
    session_settings,
)
from converter.cli.progress import progress
from converter.cli.ray_options import parse_replicas
from converter.client import Client
from converter.errors import UserError
from converter.providers import AUTO as AUTO_PROVIDER
from converter.ray_cluster import RayOptions
from converter.report.terminal import console
from converter.runtime import Decoder
from converter.runtime.choose_tiles import AUTO, chosen_tiles, fitting_tiles, look
from converter.runtime.latent_files import list_latents, read_latent
from converter.runtime.outputs import ARRAY, FOLDER, RAW, Format
from converter.runtime.ray_decode import Work, decode_on_ray
from converter.runtime.run import Done, FileDecoder, Notify, decode_file, decode_to_pipe
from converter.runtime.served_decoder import ServedDecoder
from converter.runtime.tiles import Tiles
from converter.session import SessionSettings
from converter.version import VERSION
from converter.video_file import SUFFIXES as VIDEO_SUFFIXES
from converter.video_file import Encoding

KINDS = (*VIDEO_SUFFIXES, ARRAY, FOLDER)
CRF_LIMIT = 63


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("latents", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", help="Which array of LATENTS, where there are several.")
@click.option(
    "--to",
    "kind",
    type=click.Choice([kind.lstrip(".") for kind in KINDS]),
    help="What to write. Default: as OUT's suffix says, pictures if it has none; mp4 for a folder.",
)
@click.option("--fps", default="16", show_default=True, help="Frames a second: 24, 30000/1001.")
@click.option(
    "--crf",
    type=click.IntRange(0, CRF_LIMIT),
    default=Encoding().crf,
    show_default=True,
    help="Quality of a video, smaller is better.",
)
@click.option("--uint8", is_flag=True, help="Bytes 1xTxHxWx3 in an .npy, not floats 1x3xTxHxW.")
@click.option(
    "--tile",
    default=AUTO,
    show_default=True,
    metavar="auto|none|upstream|HxW",
    help="Tiles that frames are cut into: of HxW pixels; as diffusers does; or, with auto, so only "
    "where whole frames are estimated to need more memory than is free.",
)
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    metavar="PIXELS",
    help="By how much tiles of HxW overlap. Default: a quarter of the smaller side.",
)
@provider_choice()
@click.option(
    "--server",
    metavar="URL",
    help="Decode by a running serve-vae, such as http://127.0.0.1:8000; MODEL is its name there.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token that the server asks for.",
)
@click.option("--ray", is_flag=True, help="Decode a folder of latents by Ray Data.")
@click.option(
    "--replicas",
    metavar="N|N..M",
    help="With --ray: processes that decode; with 1..4 as many as there is work for. Default: 1.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT; of a folder, decode all anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(VERSION)
@exit_codes
def main(
    model: Path,
    latents: Path,
    out: Path,
    name: str | None,
    kind: str | None,
    fps: str,
    crf: int,
    uint8: bool,
    tile: str,
    overlap: int | None,
    provider: str,
    provider_options: tuple[str, ...],
    strict_provider: bool,
    server: str | None,
    token_file: Path | None,
    ray: bool,
    replicas: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> int:
    """Decode LATENTS by MODEL into OUT.

    MODEL is the graph of a decoder (.onnx), or the manifest of one in stream form (.json), which
    decodes a clip of any length in constant memory. Either may be converted or not. With --server
    it is the name of a model there, and a clip is in memory as a whole.

    LATENTS is an .npy, .npz, .safetensors or .pt file of one latent, 1xCxTxHxW; or a folder of
    such files. OUT is an .mp4 or .webm video, an .npy array, a folder of PNG pictures, or - for
    raw frames (rgb24) on stdout; of a folder of latents, the folder of the videos.

    What is not complete is called NAME.partial.SUFFIX. So a video of its own name is finished, and
    a run over a folder, when it is repeated, goes on with those that are not.

    With --ray each replica is a process with the model; it starts on this machine, or, where
    RAY_ADDRESS names a cluster, there: then every node needs the same folders.

    Exit code: 0 done; 2 the input or the usage is wrong, or the disk is full.
    """
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    form = Format(_kind(kind, latents, out), Encoding(_fps(fps), crf), uint8)
    jobs = _jobs(latents, out, form, overwrite)
    settings = session_settings(provider_options, strict_provider)
    if ray and (server is not None or not latents.is_dir()):
        raise UserError("--ray decodes a folder of latents, and not by a --server.")
    if replicas is not None and not ray:
        raise UserError("--replicas is for --ray; give both or neither.")
    scale = parse_replicas(replicas)
    decoder: FileDecoder
    outcomes: Iterator[Done | UserError]
    if server is not None:
        if (provider, settings, tile, overlap) != (AUTO_PROVIDER, SessionSettings(), AUTO, None):
            raise UserError(
                "with --server the provider, its options and the tiles are the server's: leave "
                "--provider, --provider-option, --strict-provider, --tile and --overlap out."
            )
        decoder = ServedDecoder(Client(server, read_token(token_file) or ""), str(model))
    elif token_file is not None:
        raise UserError("--token-file is for --server; give both or neither.")
    else:
        tiles = _tiles(model, tile, overlap, [latent for latent, _ in jobs], name, scale.most)
        decoder = Decoder(model, provider, settings, tiles)
    if form.kind == RAW:
        with _progress(quiet, latents.name) as notify:
            decode_to_pipe(decoder, latents, name, _stdout(), notify)
        return EXIT_EQUAL
    there = [
        (latent, target)
        for latent, target in jobs
        if latents.is_dir() and target.exists() and not overwrite
    ]
    if ray:
        del decoder  # the replicas have their own
        work = Work(model.absolute(), provider, settings, tiles, name, form)
        todo = [job for job in jobs if job not in there]
        decoding = decode_on_ray(work, todo, scale, RayOptions()) if todo else iter(())
        outcomes = chain((_skipped(*job) for job in there), decoding)
    else:
        outcomes = (
            _skipped(*job) if job in there else _decoded(decoder, *job, name, form, quiet)
            for job in jobs
        )
    done: list[Done] = []
    failed = 0
    try:
        with progress(quiet or not ray) as tell:
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    done.append(outcome)
                    if not (quiet or as_json):
                        with reader_may_leave():
                            _show(outcome)
                elif latents.is_dir():
                    click.echo(f"error: {outcome}", err=True)
                    failed += 1
                else:
                    raise outcome
                tell(f"{len(done)} of {len(jobs)} videos")
    except KeyboardInterrupt as error:
        if not latents.is_dir():
            raise
        raise UserError(
            f"interrupted; {len(done)} of {len(jobs)} videos are finished; the same command goes "
            "on with the others."
        ) from error
    if as_json:
        with reader_may_leave():
            click.echo(json.dumps([_to_json(one) for one in done], indent=2))
    return EXIT_BAD_INPUT if failed else EXIT_EQUAL


def _skipped(latent: Path, target: Path) -> Done:
    return Done(latent, str(target), 0, 0.0, None)


def _decoded(
    decoder: FileDecoder, latent: Path, target: Path, name: str | None, form: Format, quiet: bool
) -> Done | UserError:
    """The video, or what was wrong with its latent."""
    try:
        with _progress(quiet, latent.name) as notify:
            return decode_file(decoder, latent, name, target, form, notify)
    except UserError as error:
        return error


def _stdout() -> IO[bytes]:
    """Unbuffered, so that nothing is left to be written when the reader has gone."""
    return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)


def _kind(asked: str | None, latents: Path, out: Path) -> str:
    if str(out) == RAW:
        if latents.is_dir():
            raise UserError(
                "a folder of latents cannot go to stdout; name a folder for the videos."
            )
        return RAW
    if asked is not None:
        return asked if asked == FOLDER else f".{asked}"
    if latents.is_dir():
        return VIDEO_SUFFIXES[0]
    if out.suffix in ("", *KINDS):
        return out.suffix or FOLDER
    raise UserError(f"{out} is none of {', '.join((*VIDEO_SUFFIXES, ARRAY))}, a folder, or -.")


def _fps(text: str) -> Fraction:
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--fps {text} is not a number such as 24 or 30000/1001.") from error
    if not 0 < fps <= 1000:
        raise UserError(f"--fps {text} is not between 0 and 1000.")
    return fps.limit_denominator(1001)


def _jobs(latents: Path, out: Path, form: Format, overwrite: bool) -> list[tuple[Path, Path]]:
    """Every file of latents, and what it becomes; raises `UserError` if that cannot be."""
    if form.kind == RAW:
        return [(latents, out)]
    if not latents.is_dir():
        if not out.absolute().parent.is_dir():
            raise UserError(f"the folder of {out} does not exist.")
        if out.exists() and not overwrite:
            raise UserError(f"{out} exists; give --overwrite to replace it.")
        if form.kind != FOLDER and out.is_dir():
            raise UserError(f"{out} is a folder; name a file.")
        return [(latents, out)]
    paths = list_latents(latents)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; a folder of latents becomes a folder of videos.")
    out.mkdir(exist_ok=True)
    suffix = "" if form.kind == FOLDER else form.kind
    return [(path, out / f"{path.stem}{suffix}") for path in paths]


def _tiles(
    model: Path,
    asked: str,
    overlap: int | None,
    latents: list[Path],
    name: str | None,
    processes: int,
) -> Tiles | None:
    source = look(model)
    if asked != AUTO:
        return chosen_tiles(source, asked, overlap)
    if overlap is not None:
        raise UserError("--overlap is for --tile HxW; give both or neither.")
    shapes = []
    for latent in latents:
        try:
            shapes.append(read_latent(latent, name).shape)
        except UserError:  # told when its turn comes
            continue
    largest = max(shapes, key=math.prod, default=None)
    fitting = largest and fitting_tiles(source, largest, processes)
    if not fitting:
        return None
    click.echo(f"note: {fitting[1]}.", err=True)
    return fitting[0]


def _show(one: Done) -> None:
    if one.skipped:
        console().print(f"there already: {escape(one.output)}", soft_wrap=True)
        return
    peak = "" if one.peak_bytes is None else f", peak memory {decimal(one.peak_bytes)}"
    speed = one.frames / one.seconds
    console().print(
        f"written: {escape(one.output)}, {one.frames} frames in {one.seconds:.1f} s "
        f"({speed:.2f} frames/s){peak}",
        soft_wrap=True,
    )


def _to_json(one: Done) -> dict[str, object]:
    return {
        "latent": str(one.latent),
        "output": one.output,
        "skipped": one.skipped,
        "frames": one.frames,
        "seconds": round(one.seconds, 3),
        "peak_bytes": one.peak_bytes,
    }


class _Count(ProgressColumn):
    """Frames done, and of how many, where that is known."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{total} frames")


class _Speed(ProgressColumn):
    """Frames a second over the last chunks, and the peak of memory."""

    def render(self, task: Task) -> Text:
        peak = memory.peak_bytes()
        speed = f"{task.speed:.2f} frames/s" if task.speed else ""
        return Text(f"{speed}  {decimal(peak)} peak" if peak else speed)


@contextmanager
def _progress(quiet: bool, name: str) -> Iterator[Notify]:
    """A bar with speed, time left and memory on a terminal; silent when piped."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        _Speed(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        speed_estimate_period=600,
    )
    with bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
