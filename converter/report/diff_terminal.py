"""A comparison's result as tables for a terminal, or as plain text where the output is piped."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from converter.compare.diff_result import CandidateResult, DiffResult, OutputVerdict
from converter.compare.elementwise import QUANTILES
from converter.compare.gates import options
from converter.compare.layers import LayerReport
from converter.compare.output_difference import OutputDifference


def print_diff(out: Console, result: DiffResult, *, frames: bool = False) -> None:
    """One table of outputs a candidate, frame by frame if asked for; the verdicts come last."""
    for candidate in result.candidates:
        _print_outputs(out, candidate)
        if frames:
            for output in candidate.outputs:
                _print_frames(out, output)
        if candidate.layers is not None:
            _print_layers(out, candidate.layers)
    out.print(f"reference: {escape(str(result.reference.path))} ({result.reference.evaluator})")
    for candidate in result.candidates:
        for note in candidate.notes:
            out.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
        if candidate.layers is not None:
            out.print(f"layers: {escape(candidate.layers.sentence())}", soft_wrap=True)
        label = "[green]pass[/green]" if candidate.passed else "[red]FAIL[/red]"
        out.print(
            f"{label} {escape(candidate.run.label)}: {escape(candidate.sentence())}",
            soft_wrap=True,
        )


def number(value: float | None, digits: int = 3) -> str:
    """A figure in a few characters; a dash where it is not known."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}g}"


def rows(output: OutputVerdict) -> list[tuple[str, str]]:
    """Every figure of an output under its name, in the order of a report."""
    one = output.detail.difference
    worst = "-" if one.worst_index is None else ", ".join(map(str, one.worst_index))
    spread = output.detail.frames
    found = [
        ("shape", f"{'x'.join(map(str, one.shape)) or 'scalar'} {one.dtype}"),
        ("max abs", f"{number(one.max_abs)} at [{worst}]"),
        ("mean abs", number(one.mean_abs)),
        ("RMSE", number(one.rmse)),
        ("relative L2", number(one.rel_l2)),
        ("1 - cosine", number(1 - one.cosine)),
        ("max ULP", "-" if output.detail.max_ulp is None else f"{output.detail.max_ulp:,}"),
    ]
    found += [
        (f"p{100 * quantile:g} of error", number(value))
        for quantile, value in zip(QUANTILES, output.detail.quantiles, strict=True)
    ]
    found.append(("PSNR", f"{one.psnr_db:.2f} dB over a range of {one.data_range:.4g}"))
    if spread is not None:
        for name, unit, figure in (("PSNR", " dB", spread.psnr_db), ("SSIM", "", spread.ssim)):
            digits = ".2f" if unit else ".6f"
            if not math.isnan(figure.mean):
                found.append(
                    (
                        f"{name} a frame",
                        f"mean {figure.mean:{digits}}, min {figure.min:{digits}}, "
                        f"max {figure.max:{digits}}{unit}",
                    )
                )
    found.append(
        (
            "NaN / Inf",
            f"{one.reference_nan} / {one.reference_inf} in the reference, "
            f"{one.candidate_nan} / {one.candidate_inf} in the candidate",
        )
    )
    limits = output.passing
    found.append(("would pass", options(limits) if limits else "nothing"))
    return found


def _print_outputs(out: Console, candidate: CandidateResult) -> None:
    for output in candidate.outputs:
        title = f"{candidate.run.label}: {output.name}, feed {output.feed}"
        table = Table(box=box.SIMPLE_HEAD, title=escape(title), title_justify="left")
        table.add_column("figure")
        table.add_column("value", overflow="fold")
        for name, value in rows(output):
            table.add_row(name, escape(value))
        out.print(table)


def _print_frames(out: Console, output: OutputVerdict) -> None:
    if output.detail.frames is None:
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("sample", "frame", "PSNR dB", "SSIM", "max abs", "mean abs"):
        table.add_column(heading, justify="right")
    for frame in output.detail.frames.frames:
        table.add_row(
            str(frame.sample),
            str(frame.frame),
            number(frame.psnr_db, 4),
            number(frame.ssim, 6),
            number(frame.max_abs),
            number(frame.mean_abs),
        )
    out.print(table)


def _print_layers(out: Console, report: LayerReport) -> None:
    where = ", each on its worst feed" if report.feeds > 1 else ""
    title = f"layers, relative L2{where}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in ("Conv3D output", "now held by", "layout"):
        table.add_column(heading, overflow="fold")
    for heading in ("local", "accumulated", "PSNR dB", *(["feed"] if report.feeds > 1 else [])):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for layer in report.layers:
        blamed = layer.why_blamed(report.budget)
        table.add_row(
            escape(layer.name),
            escape("" if layer.tensor == layer.name else layer.tensor),
            layer.layout,
            relative(layer.local),
            relative(layer.accumulated),
            number(layer.accumulated.psnr_db, 4) if layer.accumulated else "-",
            *([str(layer.feed)] if report.feeds > 1 else []),
            f"[red]{escape(blamed)}[/red]" if blamed else escape(layer.reason),
        )
    out.print(table)
    for note in report.notes:
        out.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)


def relative(found: OutputDifference | None) -> str:
    """The relative L2 of a layer, or a dash."""
    return number(found.rel_l2 if found else None, 2)
