"""The benchmark table: every strategy beside its competitors, in one interleaved run a case.

python scripts/benchmark.py                     all cases and rows at full size
python scripts/benchmark.py --cases chunk       one case
python scripts/benchmark.py --quick             all on small frames, to see that all of it works

Needs the extras cpu, export and bench. Graphs, measured times and results go into build/benchmark.
A case that was measured with the same options is not measured again, so an interrupted run may be
started anew; --again measures all.
"""

from __future__ import annotations

import glob
import json
import math
import re
import shlex
import sys
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import click
from benchmark_torch import SEED, Compiled, Upstream, export_steady

from converter import convert
from converter.bench.bench import Request, bench
from converter.bench.contestants import OnnxGraph, OpenVinoGraph
from converter.bench.machine import usable_cpus
from converter.bench.result import BenchResult
from converter.bench.rounds import Rules
from converter.bench.tables import LEGEND, machine_line, markdown
from converter.bench.worker import Contestant
from converter.cli.common import exit_codes
from converter.compare.running import Runner
from converter.errors import UserError
from converter.export import export
from converter.output_files import write_text

RESULT_VERSION = 3
PROVIDER = "cpu"
PATIENCE = 240.0
"""Seconds that a competitor gets to load or to compile; torch.compile takes the longest."""

ROW_SECONDS = 45.0
"""A row whose rounds have taken so long runs no more of them; the table says so."""

ORIGINAL = "original, Conv3D"
COMPILED = "torch.compile fp32"
STRATEGIES = {
    "unfold, no layout": {"strategy": "unfold", "layout": False},
    "unfold": {"strategy": "unfold"},
    "taps": {"strategy": "taps"},
    "winograd": {"strategy": "winograd"},
    "auto": {},
    "auto, any memory": {"memory_growth": math.inf},
    "tuned": {"tune": True},
}


PYTORCH = {
    "PyTorch fp32": ("float32", ""),
    "PyTorch bf16": ("bfloat16", ""),
    "PyTorch fp32, converter.eager": ("float32", "unfold"),
}
OPENVINO = {"OpenVINO fp32, original": "f32", "OpenVINO bf16, original": "bf16"}
ROWS = (*STRATEGIES, *PYTORCH, COMPILED, *OPENVINO)


@dataclass(frozen=True)
class Case:
    """A decoder, the latent (N, C, T, H, W) it decodes, and whether that is a running stream's."""

    name: str
    source: str
    latent: tuple[int, ...]
    steady: bool
    what: str

    def at(self, quick: bool) -> Case:
        """The case itself, or on frames of 4x4."""
        return replace(self, latent=(*self.latent[:3], 4, 4)) if quick else self


CASES = (
    Case(
        "chunk",
        "wan2.1",
        (1, 16, 2, 16, 16),
        steady=True,
        what="Wan 2.1, a chunk of 2 latent frames of a running stream (T = 2, 4, 8)",
    ),
    Case(
        "clip",
        "wan2.1",
        (1, 16, 3, 16, 16),
        steady=False,
        what="Wan 2.1, a whole clip of 3 latent frames (T = 3, 5, 9)",
    ),
    Case(
        "ltx",
        "ltx-video",
        (1, 128, 2, 8, 8),
        steady=False,
        what="LTX-Video, which is not causal, a whole clip of 2 latent frames",
    ),
)


@dataclass(frozen=True)
class Unmade:
    """A row whose graph could not be made: the table says why."""

    label: str
    reason: str

    def load(self) -> Runner:
        """See `converter.bench.worker.Contestant`."""
        raise UserError(self.reason)


@dataclass(frozen=True)
class Setup:
    """What is measured, and where files go."""

    case: Case
    rows: tuple[str, ...]
    rounds: int
    threads: int
    folder: Path

    @property
    def key(self) -> dict[str, object]:
        """A result of the same key need not be measured again."""
        return {
            "version": RESULT_VERSION,
            "source": self.case.source,
            "latent": list(self.case.latent),
            "rows": list(self.rows),
            "rounds": self.rounds,
            "threads": self.threads,
        }

    @property
    def result(self) -> Path:
        """The case's result."""
        return self.folder / f"{self.case.name}.json"

    def graph(self, row: str) -> Path:
        """The graph of a row."""
        size = "x".join(map(str, self.case.latent))
        return self.folder / f"{self.case.name}-{size}-{re.sub('[^a-z0-9]+', '-', row)}.onnx"

    def tell(self, what: str) -> None:
        """Say on stderr what is going on, and when it began."""
        now = time.strftime("%H:%M:%S")
        print(f"{now} {self.case.name}: {what}", file=sys.stderr, flush=True)


@click.command()
@click.option("--quick", is_flag=True, help="4x4 latents.")
@click.option("--cases", default=",".join(case.name for case in CASES), show_default=True)
@click.option("--row", "rows", multiple=True, help="A row, or a glob of rows. Default: all.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=usable_cpus(), show_default=True)
@click.option("--again", is_flag=True, help="Measure what was measured already.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/benchmark"),
    show_default=True,
    help="For graphs, measured times of tuning, and results.",
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@exit_codes
def main(
    quick: bool,
    cases: str,
    rows: tuple[str, ...],
    rounds: int,
    threads: int,
    again: bool,
    folder: Path,
    debug: bool,
) -> int:
    """Measure every strategy and every competitor; print a table in Markdown, write JSON."""
    by_name = {case.name: case.at(quick) for case in CASES}
    unknown = [name for name in cases.split(",") if name not in by_name]
    if unknown:
        raise click.UsageError(f"no case {unknown[0]!r}; there are {', '.join(by_name)}.")
    for pattern in rows:
        if not any(fnmatchcase(row, pattern) for row in ROWS):
            raise click.UsageError(f"--row {pattern!r} matches none of: {'; '.join(ROWS)}.")
    chosen = tuple(row for row in ROWS if not rows or any(fnmatchcase(row, p) for p in rows))
    folder.mkdir(parents=True, exist_ok=True)
    for name in cases.split(","):
        setup = Setup(by_name[name], chosen, rounds, threads, folder)
        known = None if again else _known(setup)
        if known is None:
            result = _measure(setup)
            known = _content(setup, result)
            if result.interrupted:
                print(known["markdown"])
                return 1
            write_text(setup.result, json.dumps(known, indent=2) + "\n")
        print(known["markdown"], flush=True)
    print(LEGEND)
    return 0


def _known(setup: Setup) -> dict | None:
    """What an earlier run with the same options found."""
    if not setup.result.exists():
        return None
    content = json.loads(setup.result.read_text(encoding="utf-8"))
    if content["key"] != setup.key:
        return None
    setup.tell("measured already; --again measures it anew")
    return content


def _content(setup: Setup, result: BenchResult) -> dict:
    latent = "x".join(map(str, setup.case.latent))
    command = shlex.join(["python", *sys.argv])
    text = f"**{setup.case.what}, latent {latent}**\n\n{markdown(result)}\n"
    return {
        "key": setup.key,
        "markdown": f"{text}`{command}` on {machine_line(result)}.\n",
        "result": result.to_json(),
    }


def _measure(setup: Setup) -> BenchResult:
    original = setup.graph("original")
    if not original.exists():
        setup.tell("exporting")
        _export(setup.case, original)
    contestants: list[Contestant] = [OnnxGraph(ORIGINAL, original, PROVIDER, setup.threads)]
    contestants += [_contestant(setup, original, row) for row in setup.rows]
    rules = Rules(setup.rounds, limit=PATIENCE, keep_going=True, row_seconds=ROW_SECONDS)
    request = Request(rules, {}, SEED, PROVIDER, threads=setup.threads)
    return bench(
        original,
        contestants,
        request,
        lambda what, done, total: setup.tell(f"{done}/{total} {what}"),
    )


def _contestant(setup: Setup, original: Path, row: str) -> Contestant:
    case, threads = setup.case, setup.threads
    if row in PYTORCH:
        dtype, conv2d = PYTORCH[row]
        return Upstream(row, case.source, case.steady, dtype, threads, conv2d)
    if row in OPENVINO:
        return OpenVinoGraph(row, original, OPENVINO[row], threads)
    if row == COMPILED:
        return Compiled(row, case.source, case.steady, threads)
    setup.tell(f"converting, {row}")
    path = setup.graph(row)
    try:
        _convert(original, path, STRATEGIES[row], setup.folder / "tuning.json")
    except (UserError, OSError) as error:
        return Unmade(row, str(error))
    return OnnxGraph(row, path, PROVIDER, threads)


def _export(case: Case, path: Path) -> None:
    if case.steady:
        part = path.with_suffix(".part")
        export_steady(case.source, case.latent, part)
        part.rename(path)
    else:
        export(case.source, path, seed=SEED, latent=case.latent, check=False, overwrite=True)


def _convert(original: Path, path: Path, options: dict, cache: Path) -> None:
    """Convert; where a strategy is asked for that does not take every Conv3D, `auto` takes it."""
    settings = {**options, "validate": False, "provider": PROVIDER, "tuning_cache": cache}
    plan = convert(original, None, **settings, dry_run=True).plan
    pins = {glob.escape(entry.node): "auto" for entry in plan.refusals}
    convert(original, path, **settings, pins=pins, overwrite=True)


if __name__ == "__main__":
    main()
