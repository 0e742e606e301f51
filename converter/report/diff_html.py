"""A comparison's result as one HTML file that needs no network."""

from __future__ import annotations

import base64
import importlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.compare.diff_result import CandidateResult, DiffResult, OutputVerdict
from converter.compare.gates import options
from converter.compare.histogram import PER_DECADE
from converter.compare.layers import LayerReport, log_error
from converter.compare.pictures import Image, Strip
from converter.errors import UserError
from converter.report.diff_terminal import number, relative, rows

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class _Chart:
    title: str
    svg: Markup
    note: str = ""


def to_html(result: DiffResult) -> str:
    """The page; raises `UserError` where jinja2 or Pillow is not installed."""
    jinja2 = _library("jinja2", "Jinja2")
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
    )
    environment.filters["shape"] = _shape
    page: str = environment.get_template("diff.html.jinja").render(
        result=result,
        gates=gates_sentence(result),
        outputs=[_output(result, number) for number in range(_output_count(result))],
        reels=[
            _reel(candidate, candidate.pictures)
            for candidate in result.candidates
            if candidate.pictures
        ],
        layers=[
            _layers(candidate.run.path.name, candidate.layers)
            for candidate in result.candidates
            if candidate.layers
        ],
    )
    return page


def gates_sentence(result: DiffResult) -> str:
    """The gates in words."""
    given = [("", result.gates.limits), *result.gates.by_output.items()]
    shown = [f"{name} {options(limits)}".strip() for name, limits in given if limits.any]
    return "; ".join(shown) or f"what the precision explains, {result.gates.default}"


def _output_count(result: DiffResult) -> int:
    return len(result.candidates[0].outputs) if result.candidates else 0


def _output(result: DiffResult, place: int) -> dict[str, Any]:
    """One output on one feed, the candidates side by side."""
    verdicts = [candidate.outputs[place] for candidate in result.candidates]
    heads = [candidate.run.path.name for candidate in result.candidates]
    figures = [dict(rows(verdict)) for verdict in verdicts]
    names = list(dict.fromkeys(name for one in figures for name in one))
    return {
        "name": verdicts[0].name,
        "feed": verdicts[0].feed,
        "heads": heads,
        "rows": [(name, [one.get(name, "-") for one in figures]) for name in names],
        "charts": _charts(heads, verdicts),
    }


def _charts(heads: Sequence[str], verdicts: Sequence[OutputVerdict]) -> list[_Chart]:
    from converter.report.charts import Series, line_chart

    found = []
    for title, unit, figure in (("PSNR", "dB", "psnr_db"), ("SSIM", "", "ssim")):
        series = [
            Series(head, [getattr(f, figure) for f in v.detail.frames.frames])
            for head, v in zip(heads, verdicts, strict=True)
            if v.detail.frames
        ]
        values = [value for one in series for value in one.values]
        if not any(math.isfinite(value) for value in values):
            continue
        equal = sum(map(math.isinf, values))
        note = f"{equal} frames are equal; they are drawn at the upper edge." if equal else ""
        svg = line_chart(series, x_label="frame", y_label=f"{title} {unit}".strip())
        found.append(_Chart(f"{title} a frame", svg, note))
    return [*found, *_histogram(heads, verdicts)]


def _histogram(heads: Sequence[str], verdicts: Sequence[OutputVerdict]) -> list[_Chart]:
    from converter.report.charts import Series, bar_chart

    known = [v.histogram for v in verdicts if v.histogram and v.histogram.counts]
    if not known:
        return []
    first = min(one.first for one in known)
    last = max(one.first + len(one.counts) / PER_DECADE for one in known)
    count = round((last - first) * PER_DECADE)
    series = []
    for head, verdict in zip(heads, verdicts, strict=True):
        values = [math.nan] * count
        if verdict.histogram and verdict.histogram.counts:
            offset = round((verdict.histogram.first - first) * PER_DECADE)
            for place, elements in enumerate(verdict.histogram.counts):
                if elements:  # one element still shows
                    values[offset + place] = math.log10(elements) + 0.1
        series.append(Series(head, values))
    labels = [f"{first + place / PER_DECADE:g}" for place in range(count)]
    zeros = ", ".join(f"{v.histogram.zero:,}" for v in verdicts if v.histogram)
    svg = bar_chart(labels, series, x="log10 of the absolute error", y="log10 of elements")
    return [_Chart("Absolute errors", svg, f"Elements without any error: {zeros}.")]


def _layers(name: str, report: LayerReport) -> dict[str, Any]:
    from converter.report.charts import Series, bar_chart

    lines = [
        Series("local", [_drawn(log_error(layer.local)) for layer in report.layers]),
        Series("accumulated", [_drawn(log_error(layer.accumulated)) for layer in report.layers]),
    ]
    labels = [str(number) for number in range(len(report.layers))]
    return {
        "name": name,
        "report": report,
        "svg": bar_chart(labels, lines, x="layer", y="log10 of relative L2"),
        "rows": [
            {
                "name": layer.name,
                "tensor": layer.tensor,
                "layout": layer.layout,
                "blamed": layer.why_blamed(report.budget),
                "reason": layer.reason,
                "local": relative(layer.local),
                "accumulated": relative(layer.accumulated),
                "psnr": number(layer.accumulated.psnr_db, 4) if layer.accumulated else "-",
            }
            for layer in report.layers
        ],
    }


def _drawn(value: float) -> float:
    """A layer without error has no bar."""
    return math.nan if math.isinf(value) else value


def _reel(candidate: CandidateResult, strip: Strip) -> dict[str, Any]:
    return {
        "output": strip.output,
        "candidate": candidate.run.path.name,
        "gain": f"{strip.gain:,.0f}",
        "total": strip.total,
        "start": max(range(len(strip.frames)), key=lambda n: int(strip.frames[n].difference.sum())),
        "frames": [
            {
                "frame": one.frame,
                "reference": _png(one.reference),
                "candidate": _png(one.candidate),
                "difference": _png(one.difference),
            }
            for one in strip.frames
        ],
    }


def _png(picture: Image) -> str:
    image = _library("PIL.Image", "Pillow")
    buffer = io.BytesIO()
    image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shape(dims: Any) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in dims or ()) or "?"


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"an HTML report needs {package}; install it by pip install 'convert-vae[report]'."
        ) from error
