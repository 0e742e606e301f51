"""Line and bar charts as inline SVG; colours come from the page, so that it may be dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 72, 12, 14, 44


@dataclass(frozen=True)
class Series:
    """A line: label, and a value a place; nan is a gap, infinity is drawn at the upper edge.

    `colour` is the number of a colour, for lines that belong together; else each has its own.
    """

    label: str
    values: Sequence[float]
    colour: int | None = None
    dashed: bool = False


def line_chart(
    series: Sequence[Series], *, x_label: str, y_label: str, log: bool = False
) -> Markup:
    """Values over their index, one line a series. With `log` they are powers of ten."""
    scale = _Scale.of([v for one in series for v in one.values], log)
    count = max((len(one.values) for one in series), default=0)
    body = [_frame(scale, x_label, y_label), _places([str(n) for n in range(count)])]
    for number, one in enumerate(series):
        colour = (number if one.colour is None else one.colour) % 6
        points = [(_x(place, count), scale.y(v)) for place, v in enumerate(one.values)]
        body.append(_line(points, colour, one.dashed))
        body += [
            f'<circle class="s{colour}{" hollow" if one.dashed else ""}" cx="{x:.1f}" '
            f'cy="{y:.1f}" r="{2.4 if count > 40 else 3}">'
            f"<title>{escape(one.label)}, {place}: {_told(one.values[place], log)}</title></circle>"
            for place, (x, y) in enumerate(points)
            if y is not None
        ]
    return _svg(body, f"{y_label} over {x_label}")


def _told(value: float, log: bool) -> str:
    return f"{10**value if log else value:.4g}"


def bar_chart(
    labels: Sequence[str], series: Sequence[Series], *, x: str, y: str, log: bool = False
) -> Markup:
    """Bars side by side at each place, from the lowest tick up; a gap where a value is nan.

    With `log` the values are powers of ten. A bar at the lowest tick still shows.
    """
    scale = _Scale.of([v for one in series for v in one.values] + [0.0] * log, log)
    body = [_frame(scale, x, y), _places(labels)]
    slot = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    wide = slot * 0.8 / max(len(series), 1)
    for number, one in enumerate(series):
        for place, value in enumerate(one.values):
            top = scale.y(value)
            if top is None:
                continue
            tall = max(HEIGHT - BOTTOM - top, 2)
            start = LEFT + place * slot + slot * 0.1 + number * wide
            body.append(
                f'<rect class="s{number % 6}" x="{start:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
                f'width="{wide:.1f}" height="{tall:.1f}">'
                f"<title>{escape(one.label)}: {_told(value, log)}</title></rect>"
            )
    return _svg(body, f"{y} by {x}")


@dataclass(frozen=True)
class _Scale:
    """The vertical axis: its ends, the distance of its ticks, and whether it is logarithmic."""

    low: float
    high: float
    step: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], log: bool = False) -> _Scale:
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if high - low < 1e-9 * max(abs(high), 1e-300):
            margin = abs(high) / 100 or 1.0
            low = high - margin  # the line lies at the upper edge
        if log:
            low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
            step = float(math.ceil((high - low) / 6))
            return cls(low, low + math.ceil((high - low) / step) * step, step, True)
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

    def text(self, tick: float) -> str:
        """What a tick says."""
        if self.log:
            return f"{10**tick:g}" if 0 <= tick < 6 else f"1e{tick:.0f}"
        return f"{tick:.{max(0, -math.floor(math.log10(self.step)))}f}"

    def ticks(self) -> list[float]:
        return [
            self.low + n * self.step for n in range(round((self.high - self.low) / self.step) + 1)
        ]


def _frame(scale: _Scale, x_label: str, y_label: str) -> str:
    parts = []
    for tick in scale.ticks():
        y = scale.y(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{(y or 0) + 4:.1f}" text-anchor="end">'
            f"{scale.text(tick)}</text>"
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="upright" transform="translate(15 {middle}) rotate(-90)" '
        f'text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _places(labels: Sequence[str]) -> str:
    """At most twelve labels below the axis; every other is `odd`, which a small screen hides.

    An empty label is left out.
    """
    told = [(place, label) for place, label in enumerate(labels) if label]
    every = max(1, math.ceil(len(told) / 12))
    return "".join(
        f'<text class="{"odd" if number % 2 else "even"}" x="{_x(place, len(labels)):.1f}" '
        f'y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{escape(label)}</text>'
        for number, (place, label) in enumerate(told[::every])
    )


def _x(place: int, count: int) -> float:
    return LEFT + (place + 0.5) * (WIDTH - LEFT - RIGHT) / max(count, 1)


def _line(points: Sequence[tuple[float, float | None]], colour: int, dashed: bool) -> str:
    path, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    style = "line dash" if dashed else "line"
    return f'<path class="{style} s{colour}" d="{" ".join(path)}"/>'


def _svg(body: Sequence[str], label: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )
