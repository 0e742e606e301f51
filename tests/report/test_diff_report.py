"""The forms of a report, from one comparison with a planted fault."""

import asyncio
import base64
import io
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from converter.compare.diff import DiffRequest, diff
from converter.compare.feeding import FeedPlan
from converter.errors import UserError
from converter.report.diff_file import check_report_path, write_report
from converter.report.diff_html import to_html
from converter.report.diff_markdown import to_markdown
from tests.browser import with_page
from tests.chromium import FLAGS, LOG, chromium
from tests.compare.planted import change_a_weight, converted, plant
from tests.patience import PATIENCE

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("jinja2")
image = pytest.importorskip("PIL.Image")


class Page(HTMLParser):
    """Tags left open, attributes that fetch something, and the text."""

    VOID = ("meta", "link", "img", "input", "br")

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
    request = DiffRequest(FeedPlan(count=2), layers=True, pictures=True)
    return diff(reference, (candidate, planted), request)


def test_the_page_is_whole_and_fetches_nothing(result):
    page = Page(to_html(result))
    assert page.open == []
    assert page.sources
    assert page.sources[0] == "data:,"  # no icon, which a browser would ask for
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources[1:])
    assert "url(" not in to_html(result)


def test_the_page_tells_the_verdicts_first(result):
    text = " ".join(" ".join(Page(to_html(result)).text).split())
    assert "candidate.onnx Pass" in text
    assert "planted.onnx Fail" in text
    assert text.index("planted.onnx Fail") < text.index("max ULP")
    assert "first layer to blame: c2" in text
    for part in ("PSNR a frame", "Absolute errors", "unfold", "How this was made", "onnxruntime"):
        assert part in text
    # Of each feed PSNR and errors, the layers, and two keys; frames are too small for SSIM.
    assert len(re.findall("<svg", to_html(result))) == 2 * 2 + 1 + 2


def test_the_page_holds_the_same_frames_of_every_side_and_feed(result):
    reels = re.findall(r'<script type="application/json">(.*?)</script>', to_html(result))
    assert len(reels) == 2
    for feed, reel in enumerate(map(json.loads, reels)):
        assert [one["frame"] for one in reel] == list(range(4))
        for number, candidate in enumerate(result.candidates):
            for one, expected in zip(reel, candidate.pictures[feed].frames, strict=True):
                found = [pixels(one["pictures"][n]) for n in (0, 2 * number + 1, 2 * number + 2)]
                np.testing.assert_array_equal(found[0], expected.reference)
                np.testing.assert_array_equal(found[1], expected.candidate)
                np.testing.assert_array_equal(found[2], expected.difference)


def pixels(url: str) -> np.ndarray:
    head, data = url.split(",")
    assert head == "data:image/webp;base64"
    return np.asarray(image.open(io.BytesIO(base64.b64decode(data))))


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


PROBE = """<script>addEventListener("load", async () => {
  const found = {}, reel = document.querySelector(".reel"), slider = reel.querySelector("input");
  const sources = () => [...reel.querySelectorAll("img")].map(image => image.src);
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  found.width = innerWidth;
  found.start = slider.value;
  slider.value = "0"; slider.dispatchEvent(new Event("input"));
  const first = sources();
  slider.value = slider.max; slider.dispatchEvent(new Event("input"));
  found.changed = sources().map((source, n) => source !== first[n]);
  found.told = reel.querySelector("output").textContent;
  await Promise.all([...document.images].map(image => image.decode()));
  found.sizes = [...document.images].map(image => [image.naturalWidth, image.naturalHeight]);
  found.requests = performance.getEntriesByType("resource").map(entry => entry.name)
    .filter(name => !name.startsWith("data:"));
  const button = reel.querySelector("button");
  button.click(); found.playing = button.textContent; button.click();
  found.paused = button.textContent;
  found.focusable = [slider, button].map(one => {
    one.focus(); return document.activeElement === one;
  });
  document.title = JSON.stringify(found);
})</script></body>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it(result, tmp_path, width):
    """Renders without an error or a request; nothing is wider than the window; the slider works.

    The page lies in a frame of that width, as a window cannot be as narrow as a phone.
    """
    page = tmp_path / "report.html"
    page.write_text(to_html(result).replace("</body>", PROBE), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<body style="margin:0"><iframe style="border:0;width:{width}px;height:3000px" '
        f'src="{page.as_uri()}"></iframe>'
        "<script>setInterval(() => { try { document.title = "
        "document.querySelector('iframe').contentDocument.title } catch (e) {} }, 50)</script>",
        encoding="utf-8",
    )
    found = {}

    async def use(tab):
        found.update(json.loads(await tab.until("document.title[0] == '{' && document.title")))

    flags = ("--allow-file-access-from-files", "--hide-scrollbars")
    log = asyncio.run(with_page(outer.as_uri(), tmp_path, use, *flags))
    assert found["overflow"] <= 0
    assert found["width"] == width
    assert found["changed"] == [True] * 5
    assert found["told"] == "frame 3 of 0 to 3"
    assert found["sizes"] == [[10, 8]] * 10
    assert found["requests"] == []
    assert (found["playing"], found["paused"]) == ("Pause", "Play")
    assert found["focusable"] == [True, True]
    assert "CONSOLE" not in log, log
    browse(outer, tmp_path, f"--screenshot={tmp_path / 'shot.png'}")
    shot = np.asarray(image.open(tmp_path / "shot.png").convert("RGB"))[:, :width]
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 50


def test_an_error_of_a_page_is_seen(tmp_path):
    """So that the silence in the test above means something."""
    page = tmp_path / "broken.html"
    page.write_text("<script>missing()</script>")
    assert "missing is not defined" in browse(page, tmp_path, "--dump-dom").stderr


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    flags = [*FLAGS, *LOG, "--hide-scrollbars"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--window-size=1280,1600"]
    return subprocess.run(
        [chromium(), *flags, *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
