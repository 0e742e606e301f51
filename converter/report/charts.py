"""Line and bar charts as inline SVG; colours come from the page, so that it may be dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 34


@dataclass(frozen=True)
class Series:
    """A line: label, and a value a place; nan is a gap, infinity is drawn at the upper edge."""

    label: str
    values: Sequence[float]


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> Markup:
    """Values over their index, one line a series."""
    scale = _Scale.of([v for one in series for v in one.values])
    count = max((len(one.values) for one in series), default=0)
    body = [_frame(scale, x_label, y_label), _places([str(n) for n in range(count)])]
    for number, one in enumerate(series):
        points = [(_x(place, count), scale.y(v)) for place, v in enumerate(one.values)]
        body.append(_line(points, number))
        body += [
            f'<circle class="s{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(one.label)}, {place}: {one.values[place]:.6g}</title></circle>"
            for place, (x, y) in enumerate(points)
            if y is not None
        ]
    return _svg(body, f"{y_label} over {x_label}")


def bar_chart(labels: Sequence[str], series: Sequence[Series], *, x: str, y: str) -> Markup:
    """Bars side by side at each place, from the lowest tick up; a gap where a value is nan."""
    scale = _Scale.of([v for one in series for v in one.values])
    body = [_frame(scale, x, y), _places(labels)]
    slot = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    wide = slot * 0.8 / max(len(series), 1)
    for number, one in enumerate(series):
        for place, value in enumerate(one.values):
            top = scale.y(value)
            if top is None:
                continue
            start = LEFT + place * slot + slot * 0.1 + number * wide
            body.append(
                f'<rect class="s{number % 6}" x="{start:.1f}" y="{top:.1f}" width="{wide:.1f}" '
                f'height="{max(HEIGHT - BOTTOM - top, 0):.1f}">'
                f"<title>{escape(one.label)}, {escape(labels[place])}: {value:.4g}</title></rect>"
            )
    return _svg(body, f"{y} by {x}")


@dataclass(frozen=True)
class _Scale:
    """The vertical axis: its ends and the distance of its ticks."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if high - low < 1e-9 * max(abs(high), 1e-300):
            margin = abs(high) / 100 or 1.0
            low = high - margin  # the line lies at the upper edge
        rough = (high - low) / 4
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step, step)

    def y(self, value: float) -> float | None:
        if math.isnan(value):
            return None
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def ticks(self) -> list[float]:
        return [
            self.low + n * self.step for n in range(round((self.high - self.low) / self.step) + 1)
        ]


def _frame(scale: _Scale, x_label: str, y_label: str) -> str:
    digits = max(0, -math.floor(math.log10(scale.step)))
    parts = []
    for tick in scale.ticks():
        y = scale.y(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{(y or 0) + 4:.1f}" text-anchor="end">'
            f"{tick:.{digits}f}</text>"
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _places(labels: Sequence[str]) -> str:
    """At most twelve labels below the axis."""
    every = max(1, math.ceil(len(labels) / 12))
    return "".join(
        f'<text x="{_x(place, len(labels)):.1f}" y="{HEIGHT - BOTTOM + 15}" '
        f'text-anchor="middle">{escape(label)}</text>'
        for place, label in enumerate(labels)
        if place % every == 0
    )


def _x(place: int, count: int) -> float:
    return LEFT + (place + 0.5) * (WIDTH - LEFT - RIGHT) / max(count, 1)


def _line(points: Sequence[tuple[float, float | None]], number: int) -> str:
    path, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return f'<path class="line s{number % 6}" d="{" ".join(path)}"/>'


def _svg(body: Sequence[str], label: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )
