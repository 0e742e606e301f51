"""A conversion's result as tables for a terminal, or as plain text where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from converter.placement import Placement
from converter.plan import Plan
from converter.providers import Usable
from converter.result import ConvertResult, GraphSummary

PIPED_WIDTH = 1000
"""Columns when no terminal tells: a plan has one line a Conv3D, however long its names are."""


def console(*, stderr: bool = False) -> Console:
    """A console for stdout or stderr; plain and wide when piped."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH, highlight=False)


def print_plan(out: Console, plan: Plan) -> None:
    """One line a Conv3D: name, shapes, attributes, strategy, reason or refusal."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{len(plan.entries)} Conv3D", title_justify="left")
    for heading in ("node", "input NxCxTxHxW", "weights OxC/gxTxHxW", "attributes"):
        table.add_column(heading, overflow="fold")
    table.add_column("strategy")
    table.add_column("reason", overflow="fold")
    for entry in plan.entries:
        strategy = "refused" if entry.refused else entry.strategy
        table.add_row(
            escape(entry.node),
            _shape(entry.x_shape),
            _shape(entry.w_shape),
            entry.attributes,
            f"[red]{strategy}[/red]" if entry.refused else strategy,
            escape(entry.reason),
        )
    out.print(table)


def print_summary(out: Console, result: ConvertResult) -> None:
    """Before and after: nodes by operator, Conv3D left, parameters, size, opset; seconds."""
    after = result.after
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("before", justify="right")
    if after is not None:
        table.add_column("after", justify="right")
    summaries = [s for s in (result.before, after) if s is not None]
    table.add_row("[bold]Conv3D[/bold]", *(f"[bold]{s.conv3d}[/bold]" for s in summaries))
    table.add_row("nodes", *(str(s.node_count) for s in summaries))
    for op in _operators(summaries):
        table.add_row(f"  {op}", *(str(s.nodes.get(op, 0) or "") for s in summaries))
    table.add_row("parameters", *(f"{s.parameters:,}" for s in summaries))
    table.add_row("file size", *(decimal(s.file_bytes) for s in summaries))
    table.add_row("opset", *(str(s.opset) for s in summaries))
    out.print(table)
    spent = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in result.seconds.items())
    out.print(f"time: {spent}")


def print_placement(out: Console, placement: Placement) -> None:
    """The counts in one line, then one row for each kind of node that falls to the CPU."""
    colour = "green" if placement.complete else "red"
    label = f"[{colour}]target {placement.target}:[/{colour}]"
    out.print(f"{label} {escape(placement.sentence())}", soft_wrap=True)
    for problem in placement.problems:
        out.print(f"  [red]not loaded:[/red] {escape(problem)}", soft_wrap=True)
    if not placement.fallbacks:
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("not taken because", overflow="fold")
    table.add_column("nodes", justify="right")
    table.add_column("such as", overflow="fold")
    for reason, nodes in placement.reasons().items():
        table.add_row(escape(reason), str(len(nodes)), escape(nodes[0]))
    out.print(table)


def print_verdict(out: Console, result: ConvertResult, verbose: bool = False) -> None:
    """The notes, then one sentence on equality and one on what was written."""
    if result.precision is not None:
        out.print(escape(result.precision.sentence()), soft_wrap=True)
        for node, reason in result.precision.kept.items():
            out.print(
                f"[yellow]note:[/yellow] stays in fp32: {escape(node)}: {escape(reason)}",
                soft_wrap=True,
            )
    if result.placement is not None:
        print_placement(out, result.placement)
    for note in result.notes:
        out.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    if result.validation is not None:
        passed = result.validation.passed
        label = "[green]validation:[/green]" if passed else "[red]validation:[/red]"
        out.print(f"{label} {escape(result.validation.sentence())}", soft_wrap=True)
        print_provider(out, result.validation.provider, verbose)
    if result.written:
        weights = result.after.data_file if result.after else ""
        print_written(out, result.output, weights)
    elif result.after is not None:
        where = escape(str(result.output))
        out.print(f"not written: {where} (--keep-invalid writes it all the same)", soft_wrap=True)


def print_written(out: Console, path: Path | None, data_file: str) -> None:
    """Say which files there are: a model whose weights are left behind is of no use."""
    weights = f", its weights {data_file}" if data_file else ""
    out.print(f"written: {escape(f'{path}{weights}')}", soft_wrap=True)


def print_provider(out: Console, provider: Usable, verbose: bool) -> None:
    """Say which better providers than the one in use do not work here; why, if asked for."""
    if verbose:
        for reason in provider.why_not:
            out.print(f"  {escape(reason)}", soft_wrap=True)
    elif provider.why_not:
        names = ", ".join(reason.partition(":")[0] for reason in provider.why_not)
        out.print(f"provider: {provider.name}; not usable here: {names} (-v says why)")


def _operators(summaries: Sequence[GraphSummary]) -> list[str]:
    """Operators of all summaries, the most frequent first."""
    counts: dict[str, int] = {}
    for summary in summaries:
        for op, count in summary.nodes.items():
            counts[op] = max(counts.get(op, 0), count)
    return sorted(counts, key=lambda op: (-counts[op], op))


def _shape(shape: Sequence[int | str | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "?"
