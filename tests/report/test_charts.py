"""Charts drawn by hand: the frame is 556 x 192, its lower left corner at (72, 206)."""

import re

import pytest

pytest.importorskip("markupsafe")

from converter.report.charts import Series, bar_chart, line_chart

INF, NAN = float("inf"), float("nan")


def line(*values, log=False):
    return line_chart([Series("a", values)], x_label="x", y_label="y", log=log)


def ticks(svg):
    """What the vertical axis says, from below, and where."""
    found = re.findall(r'y="([\d.]+)" text-anchor="end">([^<]+)<', svg)
    return [(text, float(y) - 4) for y, text in found]


def heights(svg):
    return [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]


def test_charts_draw_what_is_known():
    svg = line_chart(
        [Series("a", [1.0, float("nan"), 2.0, float("inf")])], x_label="x", y_label="y"
    )
    assert svg.count("<circle") == 3
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert heights[0] > heights[1] == heights[2]  # inf at the upper edge
    assert svg.count("M") == 2  # the gap
    log = line_chart([Series("a", [-7.0, -2.0], 3, True)], x_label="x", y_label="y", log=True)
    for expected in (">1e-7<", ">1e-2<", "a, 0: 1e-07", 'class="line dash s3"'):
        assert expected in log
    bars = bar_chart(["0", "1"], [Series("<a>", [1.0, float("nan")])], x="x", y="y")
    assert bars.count("<rect") == 1
    assert "<a>" not in bars
    assert "<svg" in line_chart([], x_label="x", y_label="y")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.0, 10.0), ["0", "5", "10"]),  # a quarter of the range is 2.5: steps of 5
        ((0.0, 4.0), ["0", "1", "2", "3", "4"]),
        ((0.0, 0.7), ["0.0", "0.2", "0.4", "0.6", "0.8"]),
        ((41.3, 60.2), ["40", "45", "50", "55", "60", "65"]),
        ((-3.0, 2.5), ["-4", "-2", "0", "2", "4"]),
        ((30.0, 30.0), ["29.7", "29.8", "29.9", "30.0"]),  # of one value, a hundredth below it
        ((0.0, 0.0), ["-1.0", "-0.5", "0.0"]),
        ((INF, NAN), ["-1.0", "-0.5", "0.0"]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(values, texts):
    found = ticks(line(*values))
    assert [text for text, _ in found] == texts
    steps = len(texts) - 1
    expected = [206 - 192 * n / steps for n in range(steps + 1)]
    assert [y for _, y in found] == pytest.approx(expected, abs=0.06)  # printed to a tenth


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((-6.5, -2.2), ["1e-7", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2"]),
        ((0.5, 2.0), ["1", "10", "100"]),
        ((0.0, 6.0), ["1", "10", "100", "1000", "10000", "100000", "1e6"]),
        ((-12.0, -1.0), ["1e-12", "1e-10", "1e-8", "1e-6", "1e-4", "1e-2", "1"]),
        ((-3.0,), ["1e-4", "1e-3"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_powers_of_ten(values, texts):
    assert [text for text, _ in ticks(line(*values, log=True))] == texts


def test_points_lie_where_their_values_are():
    svg = line(0.0, 5.0, 10.0)
    assert heights(svg) == [206, 110, 14]
    # Three places of 556 / 3, each point in the middle of its own.
    assert re.findall(r'cx="([\d.]+)"', svg) == ["164.7", "350.0", "535.3"]
    assert re.findall(r' d="([^"]+)"', svg) == ["M164.7 206.0 L350.0 110.0 L535.3 14.0"]
    assert "<title>a, 1: 5</title>" in svg
    assert heights(line(0.0, INF, -INF, 10.0)) == [206, 14, 206, 14]


def test_of_many_places_at_most_twelve_are_labelled():
    svg = line(*range(25))
    below = re.findall(r'<text class="(\w+)" x="[\d.]+" y="223" text-anchor="middle">(\d+)<', svg)
    assert below == [
        ("odd" if n % 2 else "even", str(place)) for n, place in enumerate(range(0, 25, 3))
    ]
    few = re.findall(r'y="223" text-anchor="middle">(\d+)<', line(*range(12)))
    assert few == [str(n) for n in range(12)]


def test_points_are_smaller_where_there_are_more_than_forty():
    assert [set(re.findall(r' r="([\d.]+)"', line(*range(n)))) for n in (40, 41)] == [
        {"3"},
        {"2.4"},
    ]


def test_each_line_has_its_colour_and_a_dashed_one_is_hollow():
    series = [Series(str(n), [1.0]) for n in range(7)]
    svg = line_chart([*series, Series("pair", [2.0], 3, dashed=True)], x_label="x", y_label="y")
    assert re.findall(r'path class="([^"]+)"', svg) == [
        *(f"line s{n}" for n in (0, 1, 2, 3, 4, 5, 0)),
        "line dash s3",
    ]
    assert re.findall(r'circle class="([^"]+)"', svg)[-2:] == ["s0", "s3 hollow"]
    assert 'aria-label="y over x"' in svg
    assert '<text x="350.0" y="244" text-anchor="middle">x</text>' in svg
    assert 'transform="translate(15 110.0) rotate(-90)" text-anchor="middle">y</text>' in svg


def test_bars_stand_side_by_side_and_tell_their_values():
    series = [Series("a", [0.0, 3.0]), Series("b", [1.0, NAN])]
    svg = bar_chart(["l", "r"], series, x="error", y="elements", log=True)
    # Two places of 278, of which bars take four fifths; 64 for each of three powers of ten.
    found = re.findall(r'rect class="(s.)" x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', svg)
    assert found == [
        ("s0", "99.8", "204.0", "111.2", "2.0"),  # a single element still shows
        ("s0", "377.8", "14.0", "111.2", "192.0"),
        ("s1", "211.0", "142.0", "111.2", "64.0"),
    ]
    assert re.findall("<title>(.+?)</title>", svg) == ["a: 1", "a: 1000", "b: 10"]
    assert 'aria-label="elements by error"' in svg
    many = bar_chart(["0"], [Series("a", [3.0])], x="x", y="y", log=True)
    assert ticks(many)[0][0] == "1"
    plain = bar_chart(["0"], [Series("a", [3.0, 5.0])], x="x", y="y")
    assert re.findall("<title>(.+?)</title>", plain) == ["a: 3", "a: 5"]
