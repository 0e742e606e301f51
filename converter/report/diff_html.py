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

import numpy as np

from converter.compare.diff_result import DiffResult, OutputVerdict
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
        reels=_reels(result),
        summary=_summary(result),
        layers=[
            _layers(candidate.run.label, candidate.layers)
            for candidate in result.candidates
            if candidate.layers
        ],
        layer_chart=_layer_chart(result),
        plans=[candidate for candidate in result.candidates if candidate.plan],
    )
    return page


def check_installed() -> None:
    """Raise `UserError` where jinja2 or Pillow is not installed."""
    _library("jinja2", "Jinja2")
    _library("PIL.Image", "Pillow")


def gates_sentence(result: DiffResult) -> str:
    """The gates in words."""
    given = [("", result.gates.limits), *result.gates.by_output.items()]
    shown = [f"{name} {options(limits)}".strip() for name, limits in given if limits.any]
    return "; ".join(shown) or f"what the precision explains, {result.gates.default}"


def _summary(result: DiffResult) -> list[dict[str, Any]]:
    """One row a candidate, for the top of the page: the worst of all feeds and outputs."""
    found = []
    for candidate in result.candidates:
        details = [output.detail for output in candidate.outputs]
        likeness = [d.frames.ssim.min for d in details if d.frames]
        blamed = candidate.layers.first_blamed if candidate.layers else None
        found.append(
            {
                "label": candidate.run.label,
                "passed": candidate.passed,
                "psnr": decibels(_least([d.difference.psnr_db for d in details])),
                "ssim": _fixed(_least(likeness), 6),
                "max_abs": number(_largest([d.difference.max_abs for d in details])),
                "rel_l2": number(_largest([d.difference.rel_l2 for d in details])),
                "layer": "-" if candidate.layers is None else blamed.name if blamed else "none",
                "blamed": blamed is not None,
                "seconds": _fixed(candidate.run.seconds, 2),
            }
        )
    return found


def _least(values: Sequence[float]) -> float:
    """Nan where one is not known: what is not known is no better than the others."""
    return math.nan if any(map(math.isnan, values)) else min(values, default=math.nan)


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values, default=math.nan)


def decibels(value: float) -> str:
    """Two digits after the point; equality has no number."""
    if math.isinf(value):
        return "equal"
    return _fixed(value, 2)


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _output_count(result: DiffResult) -> int:
    return len(result.candidates[0].outputs) if result.candidates else 0


def _output(result: DiffResult, place: int) -> dict[str, Any]:
    """One output on one feed, the candidates side by side."""
    verdicts = [candidate.outputs[place] for candidate in result.candidates]
    heads = [candidate.run.label for candidate in result.candidates]
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
        svg = line_chart(series, x_label="frame", y_label=", ".join(filter(None, (title, unit))))
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
                if elements:
                    values[offset + place] = math.log10(elements)
        series.append(Series(head, values))
    decades = [first + place / PER_DECADE for place in range(count)]
    labels = [f"1e{exponent:.0f}" if exponent == round(exponent) else "" for exponent in decades]
    zeros = ", ".join(f"{v.histogram.zero:,}" for v in verdicts if v.histogram)
    svg = bar_chart(labels, series, x="absolute error", y="elements", log=True)
    return [_Chart("Absolute errors", svg, f"Elements without any error: {zeros}.")]


def _layer_chart(result: DiffResult) -> Markup:
    """Relative L2 of every layer, two lines a candidate in its colour."""
    from converter.report.charts import Series, line_chart

    lines = []
    for colour, candidate in enumerate(result.candidates):
        if candidate.layers is None:
            continue
        layers, label = candidate.layers.layers, candidate.run.label
        accumulated = [_drawn(log_error(layer.accumulated)) for layer in layers]
        local = [_drawn(log_error(layer.local)) for layer in layers]
        lines.append(Series(f"{label}, accumulated, layer", accumulated, colour))
        lines.append(Series(f"{label}, local, layer", local, colour, dashed=True))
    return line_chart(lines, x_label="layer, in graph order", y_label="relative L2", log=True)


def _layers(name: str, report: LayerReport) -> dict[str, Any]:
    return {
        "name": name,
        "report": report,
        "rows": [
            {
                "name": layer.name,
                "tensor": layer.tensor,
                "layout": layer.layout,
                "blamed": layer.why_blamed(report.budget),
                "reason": layer.reason,
                "local": relative(layer.local),
                "accumulated": relative(layer.accumulated),
                "psnr": decibels(layer.accumulated.psnr_db) if layer.accumulated else "-",
                "feed": layer.feed,
            }
            for layer in report.layers
        ],
    }


def _drawn(value: float) -> float:
    """A layer without error has no point."""
    return math.nan if math.isinf(value) else value


def _reels(result: DiffResult) -> list[dict[str, Any]]:
    """For every feed the reference's frames, and beside them every candidate's."""
    strips = [
        (candidate.run.label, one) for candidate in result.candidates for one in candidate.pictures
    ]
    feeds = sorted({one.feed for _, one in strips})
    return [_reel([(label, one) for label, one in strips if one.feed == feed]) for feed in feeds]


def _reel(strips: Sequence[tuple[str, Strip]]) -> dict[str, Any]:
    """`frames` holds for every frame the pictures in the order of the page: the reference, then
    each candidate and its difference. The first one shown has the largest difference.
    """
    first = strips[0][1]
    frames = []
    for place, one in enumerate(first.frames):
        pictures = [one.reference]
        for _, strip in strips:
            pictures += [strip.frames[place].candidate, strip.frames[place].difference]
        frames.append({"frame": one.frame, "pictures": [_image(p) for p in pictures]})
    differs = [
        max(float(strip.frames[place].difference.sum()) / strip.gain for _, strip in strips)
        for place in range(len(first.frames))
    ]
    height, width = first.frames[0].reference.shape[:2]
    return {
        "output": first.output,
        "feed": first.feed,
        "total": first.total,
        "size": (width, height),
        "start": differs.index(max(differs)),
        "columns": [(label, f"{strip.gain:,.0f}") for label, strip in strips],
        "frames": frames,
    }


def _image(picture: Image) -> str:
    """Without loss, as a data URL."""
    image = _library("PIL.Image", "Pillow")
    buffer = io.BytesIO()
    image.fromarray(np.ascontiguousarray(picture)).save(buffer, "WEBP", lossless=True, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shape(dims: Any) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in dims or ()) or "?"


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"an HTML report needs {package}; install it by pip install 'convert-vae[report]'."
        ) from error
