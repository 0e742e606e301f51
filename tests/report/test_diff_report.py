"""The forms of a report, from one comparison with a planted fault."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from converter.compare.diff import DiffRequest, diff
from converter.errors import UserError
from converter.report.charts import Series, bar_chart, line_chart
from converter.report.diff_file import check_report_path, write_report
from converter.report.diff_html import to_html
from converter.report.diff_markdown import to_markdown
from tests.compare.planted import change_a_weight, converted, plant

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("jinja2")
image = pytest.importorskip("PIL.Image")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


class Page(HTMLParser):
    """Tags left open, attributes that fetch something, and the text."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    reference, candidate = converted(tmp_path_factory.mktemp("diff"), "unfold")
    planted = plant(candidate, 2, change_a_weight)
    return diff(reference, (candidate, planted), DiffRequest(layers=True, pictures=True))


def test_the_page_is_whole_and_fetches_nothing(result):
    page = Page(to_html(result))
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "url(" not in to_html(result)


def test_the_page_tells_the_verdicts_first(result):
    text = " ".join(" ".join(Page(to_html(result)).text).split())
    assert "Fail planted.onnx" in text
    assert "Pass candidate.onnx" in text
    assert text.index("Fail planted.onnx") < text.index("max ULP")
    assert "first layer to blame: c2" in text
    for part in ("PSNR a frame", "Absolute errors", "unfold", "How this was made", "onnxruntime"):
        assert part in text
    assert len(re.findall("<svg", to_html(result))) == 4  # PSNR, errors, two charts of layers


def test_names_are_escaped(result):
    from dataclasses import replace

    page = to_html(replace(result, command="diff-vae '<script>alert(1)</script>'"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_markdown_has_the_verdicts_and_tables_of_even_width(result):
    text = to_markdown(result)
    assert text.startswith("# reference.onnx: different\n")
    assert "- **FAIL** `planted.onnx`" in text
    assert "first layer to blame: c2" in text
    block = text[text.index("| figure") :].split("\n\n")[0]
    assert {row.replace("\\|", "").count("|") for row in block.splitlines()} == {3}


def test_the_suffix_says_the_form(result, tmp_path):
    for name in ("r.html", "r.md", "r.json"):
        write_report(tmp_path / name, result)
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "r.md").read_text() == to_markdown(result)
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is False
    for path in ("r.pdf", "missing/r.html"):
        with pytest.raises(UserError, match="--report"):
            check_report_path(tmp_path / path)


def test_charts_draw_what_is_known():
    svg = line_chart(
        [Series("a", [1.0, float("nan"), 2.0, float("inf")])], x_label="x", y_label="y"
    )
    assert svg.count("<circle") == 3
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert heights[0] > heights[1] == heights[2]  # inf at the upper edge
    assert svg.count("M") == 2  # the gap
    bars = bar_chart(["0", "1"], [Series("<a>", [1.0, float("nan")])], x="x", y="y")
    assert bars.count("<rect") == 1
    assert "<a>" not in bars
    assert "<svg" in line_chart([], x_label="x", y_label="y")


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_it(result, tmp_path, width):
    """Not blank, nothing wider than the window, and the slider changes the frame."""
    page = tmp_path / "r.html"
    probe = """<script>addEventListener("load", () => {
      const before = document.querySelector(".reel img").src;
      const slider = document.querySelector(".reel input");
      slider.value = slider.min; slider.dispatchEvent(new Event("input"));
      const after = document.querySelector(".reel img").src;
      document.title = [document.documentElement.scrollWidth <= innerWidth, before !== after,
        document.querySelector(".reel output").textContent].join(" ");
    })</script></body>"""
    page.write_text(to_html(result).replace("</body>", probe), encoding="utf-8")
    title = re.search("<title>(.*?)</title>", browse(page, tmp_path, width, "--dump-dom"))
    assert title[1] == "true true 0"
    browse(page, tmp_path, width, f"--screenshot={tmp_path / 'shot.png'}")
    pixels = np.asarray(image.open(tmp_path / "shot.png").convert("RGB"))
    assert pixels.shape[1] == width
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def browse(page: Path, folder: Path, width: int, *options: str) -> str:
    flags = [f"--disable-{what}" for what in ("gpu", "quic", "sync", "component-update")]
    flags += ["--disable-background-networking", "--no-first-run", "--hide-scrollbars"]
    flags += ["--headless", "--no-sandbox", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [
            CHROMIUM,
            *flags,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},1600",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
