"""The benchmark table: every strategy beside its competitors, in one interleaved run a case.

python scripts/benchmark.py                  all cases at full size
python scripts/benchmark.py --quick          the same on small frames, to see that all of it works

Needs the extras cpu, export and bench. Graphs and results go into build/benchmark.
"""

from __future__ import annotations

import glob
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from benchmark_torch import INPUT, SEED, Compiled, Upstream, export_steady

from converter import convert
from converter.bench.bench import Request, bench
from converter.bench.contestants import OnnxGraph, OpenVinoGraph
from converter.bench.machine import usable_cpus
from converter.bench.result import BenchResult
from converter.bench.rounds import Rules
from converter.bench.tables import LEGEND, machine_line, markdown, print_result
from converter.cli.common import exit_codes
from converter.export import export
from converter.output_files import write_text
from converter.report.terminal import console

RESULT_VERSION = 1
PROVIDER = "cpu"
PATIENCE = 240.0
"""Seconds that a competitor gets to load or to compile; torch.compile takes the longest."""

STRATEGIES = {
    "unfold, no layout": {"strategy": "unfold", "layout": False},
    "unfold": {"strategy": "unfold"},
    "taps": {"strategy": "taps"},
    "winograd": {"strategy": "winograd"},
    "auto": {},
    "tuned": {"tune": True},
}


@dataclass(frozen=True)
class Case:
    """A decoder, the latent it decodes, and whether that is a chunk of a running stream."""

    name: str
    source: str
    frames: int
    steady: bool
    what: str

    def latent(self, quick: bool) -> tuple[int, ...]:
        """(N, C, T, H, W)."""
        size = 4 if quick else 16
        return (1, 16, self.frames, size, size)


CASES = (
    Case(
        "chunk",
        "wan2.1",
        frames=2,
        steady=True,
        what="Wan 2.1, a chunk of 2 latent frames of a running stream (T = 2, 4, 8)",
    ),
    Case(
        "clip",
        "wan2.1",
        frames=3,
        steady=False,
        what="Wan 2.1, a whole clip of 3 latent frames (T = 3, 5, 9)",
    ),
)


@click.command()
@click.option("--quick", is_flag=True, help="4x4 latents instead of 16x16.")
@click.option("--cases", default="chunk,clip", show_default=True, help="Separated by commas.")
@click.option("--rounds", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=usable_cpus(), show_default=True)
@click.option("--no-compile", is_flag=True, help="Leave out torch.compile.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/benchmark"),
    show_default=True,
    help="For graphs, measured times of tuning, and benchmark.json.",
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@exit_codes
def main(
    quick: bool,
    cases: str,
    rounds: int,
    threads: int,
    no_compile: bool,
    as_markdown: bool,
    folder: Path,
    debug: bool,
) -> int:
    """Measure every strategy and every competitor; print a table a case, and write JSON."""
    chosen = [case for case in CASES if case.name in cases.split(",")]
    if len(chosen) != len(cases.split(",")):
        raise click.UsageError(f"the cases are {', '.join(case.name for case in CASES)}.")
    folder.mkdir(parents=True, exist_ok=True)
    request = Request(Rules(rounds, limit=PATIENCE, keep_going=True), {}, SEED, PROVIDER, threads)
    command = shlex.join(["python", *sys.argv])
    results: list[tuple[Case, BenchResult]] = []
    for case in chosen:
        results.append((case, _measure(case, quick, no_compile, request, folder)))
        _save(folder / "benchmark.json", command, results)
        if results[-1][1].interrupted:
            break
    _print(command, results, as_markdown)
    return 0


def _measure(
    case: Case, quick: bool, no_compile: bool, request: Request, folder: Path
) -> BenchResult:
    original = folder / f"{case.name}.onnx"
    _tell(f"{case.name}: exporting")
    _export(case, quick, original)
    threads = request.threads
    assert threads is not None
    contestants = [OnnxGraph("original, Conv3D", original, PROVIDER, threads)]
    for name, options in STRATEGIES.items():
        _tell(f"{case.name}: converting, {name}")
        path = folder / f"{case.name}-{name.replace(', ', '-').replace(' ', '-')}.onnx"
        _convert(original, path, options, folder / "tuning.json")
        contestants.append(OnnxGraph(name, path, PROVIDER, threads))
    source, steady = case.source, case.steady
    contestants += [
        Upstream("PyTorch fp32", source, steady, "float32", threads),
        Upstream("PyTorch bf16", source, steady, "bfloat16", threads),
        Upstream("PyTorch fp32, converter.eager", source, steady, "float32", threads, "unfold"),
        OpenVinoGraph("OpenVINO fp32, original", original, "f32", threads),
        OpenVinoGraph("OpenVINO bf16, original", original, "bf16", threads),
    ]
    if not no_compile:
        contestants.append(Compiled("torch.compile fp32", source, steady, threads))
    return bench(
        original,
        contestants,
        request,
        lambda what, done, total: _tell(f"{case.name}: {done}/{total} {what}"),
    )


def _export(case: Case, quick: bool, path: Path) -> None:
    if case.steady:
        export_steady(case.source, case.latent(quick), path)
    else:
        latent = case.latent(quick)
        export(case.source, path, seed=SEED, latent=latent, check=False, overwrite=True)


def _convert(original: Path, path: Path, options: dict, cache: Path) -> None:
    """Convert; where a strategy is asked for that does not take every Conv3D, `auto` takes it."""
    settings = {**options, "validate": False, "provider": PROVIDER, "tuning_cache": cache}
    plan = convert(original, None, **settings, dry_run=True).plan
    pins = {glob.escape(entry.node): "auto" for entry in plan.refusals}
    convert(original, path, **settings, pins=pins, overwrite=True)


def _save(path: Path, command: str, results: list[tuple[Case, BenchResult]]) -> None:
    cases = [
        {"name": case.name, "what": case.what, "result": result.to_json()}
        for case, result in results
    ]
    content = {"version": RESULT_VERSION, "command": command, "cases": cases}
    write_text(path, json.dumps(content, indent=2) + "\n")


def _print(command: str, results: list[tuple[Case, BenchResult]], as_markdown: bool) -> None:
    for case, result in results:
        title = f"{case.what}, latent {'x'.join(map(str, result.feed_shapes[INPUT]))}"
        if as_markdown:
            print(f"**{title}**\n\n{markdown(result)}")
        else:
            print(title)
            print_result(console(), result)
    if as_markdown:
        print(f"{LEGEND}\n\n`{command}` on {machine_line(results[0][1])}.")


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
