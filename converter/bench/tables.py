"""A measurement as a table: for a terminal, and in Markdown for a README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from converter.bench.result import BenchResult, Figures, Lane
from converter.bench.statistics import Spread, spread
from converter.compare.interface import show_shape

COLUMNS = ("faster", "less CPU", "GFLOP/s", "of GEMM", "load peak", "run peak", "max abs error")
LEGEND = (
    "Medians, with quartiles in brackets. wall: by the clock; CPU: summed over threads; faster and "
    "less CPU: against the first row, round by round; GFLOP/s: the first row's direct arithmetic "
    "per second by the clock, so that saved products count; of GEMM: of what a float32 matrix "
    "product reached in the same rounds, by the clock and by CPU time; load and run peak: the "
    "largest resident memory of the row's own process until it is ready, and after that; max abs "
    "error: against the first row on the same feed."
)
UNKNOWN = "-"


@dataclass(frozen=True)
class _Unit:
    """Of the times in one table."""

    name: str
    seconds: float

    def show(self, figures: Spread) -> str:
        low, high = figures.lower_quartile, figures.upper_quartile
        return f"{self.number(figures.median)} [{self.number(low)} {self.number(high)}]"

    def number(self, seconds: float) -> str:
        """In this unit."""
        return _three_digits(seconds / self.seconds)


INPUTS_SHOWN = 3
"""A decoder in stream form has dozens of inputs, one a cache; the JSON has them all."""


def headings(result: BenchResult) -> tuple[str, ...]:
    """What `table_rows` has in its columns."""
    unit = _unit(result).name
    return ("", f"wall {unit}", "min", f"CPU {unit}", *COLUMNS)


def table_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """A row a lane, the GEMM last."""
    unit = _unit(result)
    lanes = zip(result.lanes, result.figures, strict=True)
    rows = [_row(lane, figures, unit) for lane, figures in lanes]
    if result.gemm.samples:
        rows.append(_gemm_row(result, unit))
    return rows


def conditions(result: BenchResult) -> str:
    """What was measured on, in one line."""
    shown = list(result.feed_shapes.items())[:INPUTS_SHOWN]
    feed = " ".join(f"{name}={show_shape(shape)}" for name, shape in shown)
    if len(result.feed_shapes) > len(shown):
        feed += f" and {len(result.feed_shapes) - len(shown)} more inputs"
    parts = [f"feed {feed}, seed {result.seed}" if feed else f"no inputs, seed {result.seed}"]
    counts = [len(lane.samples) for lane in result.lanes if not lane.failure]
    done = min(counts) if result.interrupted else counts[0]
    parts.append(f"rounds: {done}" + (f" of {result.rounds}" if done < result.rounds else ""))
    parts.append(f"threads: {result.threads or 'as the runtime chooses'}")
    if result.operations is not None:
        parts.append(f"direct arithmetic {result.operations / 1e9:.4g} GFLOP")
    return "; ".join(parts)


def machine_line(result: BenchResult) -> str:
    """Where it was measured, in one line."""
    machine = result.machine
    memory, load = machine["memory_bytes"], machine["load_average"]
    vectors = ", ".join(machine["vectors"]) or "no vector flags known"
    parts = [f"{machine['cpu']} ({vectors}), {machine['cpus']} logical processors"]
    if memory is not None:
        parts.append(f"{memory / 2**30:.0f} GiB")
    if load is not None:
        parts.append(f"load average before: {load:.2f}")
    parts.append(machine["system"])
    parts.append(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    return "; ".join(parts)


def print_result(out: Console, result: BenchResult) -> None:
    """The table, what it was measured on, and the notes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    label, *others = headings(result)
    table.add_column(label, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right")
    for name, *cells in table_rows(result):
        table.add_row(escape(name), *(escape(cell) for cell in cells))
    out.print(table)
    for line in (conditions(result), machine_line(result), LEGEND):
        out.print(escape(line))
    for note in result.notes:
        out.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)


def markdown(result: BenchResult) -> str:
    """The table and what it was measured on, without the legend."""
    names = headings(result)
    lines = [_line(names), _line(["---", *["---:"] * (len(names) - 1)])]
    lines += [_line([cell.replace("|", "\\|") for cell in row]) for row in table_rows(result)]
    lines += ["", conditions(result).capitalize() + "."]
    lines += [f"- {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _unit(result: BenchResult) -> _Unit:
    first = result.figures[0]
    return _Unit("s", 1) if first is None or first.wall.median >= 1 else _Unit("ms", 1e-3)


def _row(lane: Lane, figures: Figures | None, unit: _Unit) -> tuple[str, ...]:
    error = lane.max_abs_error
    ends = (
        _bytes(lane.memory.load_peak if lane.memory else None),
        _bytes(lane.memory.run_peak if lane.memory else None),
        "" if error is None else f"{error:.2g}",
    )
    if figures is None:
        return (lane.label, *[UNKNOWN] * 7, *ends)
    return (
        lane.label,
        unit.show(figures.wall),
        unit.number(figures.wall.minimum),
        unit.show(figures.cpu),
        _times(figures.wall_speedup),
        _times(figures.cpu_speedup),
        UNKNOWN if figures.gflops is None else _three_digits(figures.gflops),
        _shares(figures.of_gemm, figures.of_gemm_cpu),
        *ends,
    )


def _gemm_row(result: BenchResult, unit: _Unit) -> tuple[str, ...]:
    wall, cpu = spread(result.gemm.wall), spread(result.gemm.cpu)
    times = unit.show(wall), unit.number(wall.minimum), unit.show(cpu), "", ""
    gflops = "" if result.gemm_gflops is None else _three_digits(result.gemm_gflops)
    return (result.gemm.label, *times, gflops, _shares(1, 1), "", "", "")


def _bytes(count: int | None) -> str:
    return UNKNOWN if count is None else decimal(count)


def _times(figures: Spread) -> str:
    low, high = figures.lower_quartile, figures.upper_quartile
    return f"{figures.median:.2f}x [{low:.2f} {high:.2f}]"


def _shares(wall: float | None, cpu: float | None) -> str:
    return UNKNOWN if wall is None or cpu is None else f"{wall:.0%} {cpu:.0%}"


def _three_digits(value: float) -> str:
    """Three, or all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
