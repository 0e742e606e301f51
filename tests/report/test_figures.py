"""What the forms of a report say of a comparison whose figures can be worked out by hand."""

import html
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from converter.compare.detail import detail
from converter.compare.diff_result import (
    CandidateResult,
    DiffResult,
    FeedInfo,
    OutputVerdict,
    RunInfo,
)
from converter.compare.gates import Gates, Limits, failures
from converter.compare.histogram import histogram
from converter.compare.layers import LayerDifference, LayerReport
from converter.compare.pictures import FramePictures, Strip
from converter.compare.tolerance import FP32
from converter.errors import UserError
from converter.report import diff_html
from converter.report.diff_markdown import to_markdown
from converter.report.diff_terminal import number, print_diff, rows

pytest.importorskip("skimage")
pytest.importorskip("jinja2")

GATES = Gates(Limits(atol=0.5), {"z": Limits(min_psnr=40)})


def verdict(one, two, feed=0):
    found = detail("y", np.float32(one), np.float32(two))
    return OutputVerdict(feed, "y", found, histogram(one, two), failures(found, GATES))


REFERENCE = np.float32([[0, 0, 0], [0, 0, 1]])
FAR = verdict(REFERENCE, REFERENCE + 2 * REFERENCE)
"""One of six elements is 3 instead of 1."""
NEAR = verdict(REFERENCE, REFERENCE - REFERENCE / 4)
SAME = verdict(REFERENCE, REFERENCE)


def video(*errors):
    """Frames of 12 x 12 with one pixel of 1, and what each is off by."""
    reference = np.zeros((1, 1, len(errors), 12, 12), np.float32)
    reference[..., 0, 0] = 1
    return reference, reference + np.float32(errors)[:, None, None]


def candidate(label, *outputs, seconds=1.5, **fields):
    return CandidateResult(RunInfo(Path(label), label, "a runtime", seconds), outputs, **fields)


def result(*candidates):
    return DiffResult(
        reference=RunInfo(Path("folder/a.onnx"), "a.onnx", "a runtime", 2.0),
        candidates=candidates,
        feeds=(FeedInfo("seed 0", {"x": (1, 2)}),),
        gates=GATES,
        data_range=None,
        environment={"python": "3|11"},
        seconds=4.0,
        command="diff-vae a.onnx b.onnx",
    )


def test_a_candidate_is_told_by_the_worst_of_what_failed():
    passed, failed = replace(FAR, failures=()), replace(NEAR, failures=FAR.failures)
    assert candidate("a", passed, failed, SAME).worst is failed
    assert candidate("a", SAME, NEAR, SAME).worst is NEAR
    assert (
        candidate("a", failed, FAR, failed).sentence() == f"different: {FAR.sentence()}; and 2 more"
    )
    assert candidate("a", passed, failed).sentence() == f"different: {failed.sentence()}"


def test_rows_of_a_matrix():
    assert rows(FAR) == [
        ("shape", "2x3 float32"),
        ("max abs", "2 at [1, 2]"),
        ("mean abs", "0.333"),
        ("RMSE", "0.816"),  # 2 / sqrt(6)
        ("relative L2", "2"),
        ("1 - cosine", "0"),
        ("max ULP", "12,582,912"),  # 2^23 from 1 to 2, 2^22 from 2 to 3
        ("p50 of error", "0"),
        ("p90 of error", "1"),  # half way from the last but one to the last of six
        ("p99 of error", "1.9"),
        ("p99.9 of error", "1.99"),
        ("PSNR", "1.76 dB over a range of 1"),
        ("NaN / Inf", "0 / 0 in the reference, 0 / 0 in the candidate"),
        ("would pass", "--atol 2 --min-psnr 1.7"),
    ]
    same = dict(rows(SAME))
    assert (same["max abs"], same["max ULP"]) == ("0 at [-]", "0")


def test_rows_of_a_video_tell_the_spread_over_frames():
    reference, other = video(0, 0.1)
    found = dict(rows(verdict(reference, other)))
    assert found["PSNR a frame"] == "mean inf, min 20.00, max inf dB"
    ssim = detail("y", reference, other).frames.frames[1].ssim
    assert found["SSIM a frame"] == f"mean {(1 + ssim) / 2:.6f}, min {ssim:.6f}, max 1.000000"
    small = dict(rows(verdict(reference[..., :4], other[..., :4])))
    assert "SSIM a frame" not in small
    assert "PSNR a frame" in small


def test_rows_of_what_has_no_figures():
    whole = OutputVerdict(0, "n", detail("n", np.int64(3), np.int64([4, 5])), None, ())
    found = dict(rows(whole))
    assert (found["shape"], found["max abs"], found["max ULP"]) == ("scalar int64", "- at [-]", "-")
    assert found["would pass"] == "nothing"
    assert [number(value, 2) for value in (None, float("nan"), 0.126)] == ["-", "-", "0.13"]


LAYERS = LayerReport(
    FP32,
    (
        LayerDifference("c0", "c0", "NCTHW", SAME.detail.difference, SAME.detail.difference),
        LayerDifference("c1", "c1 2", "TCHW", FAR.detail.difference, NEAR.detail.difference),
        LayerDifference("c2", "c2", "NCTHW", None, None, "it does not run"),
    ),
    ("a note on layers",),
)


def test_the_terminal_tells_layers_notes_and_verdicts(capsys):
    near = candidate("near.onnx", NEAR, notes=("a note",), layers=LAYERS)
    print_diff(Console(width=200), result(near, candidate("far.onnx", FAR)), frames=True)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "layers, relative L2",
        "Conv3D output now held by layout local accumulated PSNR dB",
        "c0 NCTHW 0 0 inf",
        "c1 c1 2 TCHW 0.25 2 1.761 PSNR 19.82 dB < 90 dB and max abs 0.25 of range > 0.0001",
        "c2 NCTHW - - - it does not run",
        "note: a note on layers",
        "far.onnx: y, feed 0",
        "max abs 2 at [1, 2]",
    ):
        assert expected in lines
    assert lines[-5:] == [
        "reference: folder/a.onnx (a runtime)",
        "note: a note",
        f"layers: {LAYERS.sentence()}",
        "pass near.onnx: within the gates: PSNR 19.82 dB over a range of 1, max abs 0.25, "
        "relative L2 0.25",
        "FAIL far.onnx: different: output y, feed 0: needs --atol 2, not 0.5, 4 times as much as "
        "allowed (--atol 2 --min-psnr 1.7 would have passed)",
    ]


def test_the_terminal_tells_feeds_where_there_are_several(capsys):
    layers = replace(LAYERS, layers=(replace(LAYERS.layers[0], feed=1),), feeds=2)
    print_diff(Console(width=200), result(candidate("b.onnx", SAME, layers=layers)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "layers, relative L2, each on its worst feed" in shown
    assert "Conv3D output now held by layout local accumulated PSNR dB feed" in shown
    assert "c0 NCTHW 0 0 inf 1" in shown


def test_the_terminal_tells_frame_by_frame(capsys):
    reference = np.zeros((2, 1, 2, 4, 4), np.float32)
    reference[..., 0, 0] = 1
    other = reference.copy()
    other[1, 0, 1] += 0.1
    print_diff(Console(width=200), result(candidate("b", verdict(reference, other))), frames=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "sample frame PSNR dB SSIM max abs mean abs" in shown
    assert "0 0 inf - 0 0 0 1 inf - 0 0 1 0 inf - 0 0 1 1 20 - 0.1 0.1" in shown


def test_json_holds_all_of_it():
    far = candidate("far.onnx", FAR, notes=("a note",), layers=LAYERS, plan=({"node": "n"},))
    report = result(far).to_json()
    assert report["reference"] == {
        "path": "folder/a.onnx",
        "label": "a.onnx",
        "evaluator": "a runtime",
        "seconds": 2.0,
    }
    assert report["feeds"] == [{"source": "seed 0", "shapes": {"x": [1, 2]}}]
    assert report["gates"]["limits"]["atol"] == 0.5
    assert report["gates"]["by_output"]["z"]["min_psnr"] == 40
    found = {key: report[key] for key in ("data_range", "environment", "command", "seconds")}
    assert found == {
        "data_range": None,
        "environment": {"python": "3|11"},
        "command": "diff-vae a.onnx b.onnx",
        "seconds": 4.0,
    }
    (one,) = report["candidates"]
    (output,) = one.pop("outputs")
    assert one == {
        "path": "far.onnx",
        "label": "far.onnx",
        "evaluator": "a runtime",
        "seconds": 1.5,
        "passed": False,
        "sentence": far.sentence(),
        "notes": ["a note"],
        "layers": LAYERS.to_json(),
        "plan": [{"node": "n"}],
    }
    assert (output["feed"], output["candidate_name"], output["passed"]) == (0, "y", False)
    assert (output["histogram"]["zero"], output["histogram"]["counts"]) == (5, [1])
    assert output["failures"] == [
        {"gate": "atol", "limit": 0.5, "reached": 2.0, "sentence": FAR.failures[0].sentence}
    ]
    assert output["passing"] == {"atol": 2.0, "rtol": 0.0, "min_psnr": 1.7, "min_ssim": None}
    unlike = OutputVerdict(0, "y", detail("y", REFERENCE, REFERENCE[:1]), None, ())
    assert (unlike.to_json()["histogram"], unlike.to_json()["passing"]) == (None, None)


def test_markdown_tells_all_of_it():
    near = candidate("near.onnx", NEAR, notes=("a note",), layers=LAYERS)
    text = to_markdown(result(near, candidate("far.onnx", FAR)))
    lines = text.splitlines()
    assert lines[:3] == [
        "# a.onnx: different",
        "",
        f"- pass `near.onnx`: {near.sentence()}",
    ]
    assert lines[3:5] == [f"  - layers: {LAYERS.sentence()}", "  - note: a note"]
    assert lines[5].startswith("- **FAIL** `far.onnx`: different: output y, feed 0")
    assert lines[7] == "Gates: --atol 0.5; z --min-psnr 40."
    for expected in (
        "## far.onnx: y, feed 0",
        "| max abs | 2 at [1, 2] |",
        "## near.onnx: layers, relative L2",
        "| Conv3D output | local | accumulated |  |",
        "| c0 | 0 | 0 |  |",
        "| figure | value |",
        "| python | 3\\|11 |",
        "$ diff-vae a.onnx b.onnx",
    ):
        assert expected in lines
    assert to_markdown(result(near)).startswith("# a.onnx: pass\n")


def test_the_summary_shows_the_worst_of_all_outputs():
    broken = verdict(REFERENCE, REFERENCE[:1].repeat(2, 0) * np.nan)
    near = candidate("near", SAME, NEAR, layers=LAYERS)
    found = diff_html._summary(
        result(near, candidate("far", FAR, NEAR, seconds=None), candidate("nan", FAR, broken))
    )
    assert found[0] == {
        "label": "near",
        "passed": True,
        "psnr": "19.82",
        "ssim": "-",
        "max_abs": "0.25",
        "rel_l2": "0.25",
        "layer": "c1",
        "blamed": True,
        "seconds": "1.50",
    }
    shown = ("passed", "psnr", "max_abs", "rel_l2", "layer", "seconds")
    assert [found[1][key] for key in shown] == [False, "1.76", "2", "2", "-", "-"]
    assert [found[2][key] for key in ("psnr", "max_abs", "rel_l2")] == ["-", "-", "-"]
    same = replace(LAYERS, layers=LAYERS.layers[:1])
    (equal,) = diff_html._summary(result(candidate("same", SAME, layers=same)))
    assert (equal["psnr"], equal["layer"], equal["blamed"]) == ("equal", "none", False)


def test_of_ssim_the_worst_frame_counts():
    one = verdict(*video(0, 0.1))
    (row,) = diff_html._summary(result(candidate("a", one)))
    assert row["ssim"] == f"{one.detail.frames.frames[1].ssim:.6f}"


def test_the_histograms_of_candidates_share_an_axis():
    """Errors of 2 and of 0.25: five quarters of a decade from 10^-0.75 up to 10^0.5."""
    unlike = OutputVerdict(0, "y", detail("y", REFERENCE, REFERENCE[:1]), None, ())
    (chart,) = diff_html._histogram(["near", "far", "unlike"], [NEAR, FAR, unlike])
    assert chart.note == "Elements without any error: 5, 5."
    assert re.findall("<title>(.+?)</title>", chart.svg) == ["near: 1", "far: 1"]
    places = re.findall(r'x="([\d.]+)" y="\d+" text-anchor="middle">(1e.+?)<', chart.svg)
    assert places == [(f"{72 + 3.5 * 556 / 5:.1f}", "1e0")]
    assert diff_html._histogram(["same"], [SAME]) == []


def test_the_figures_of_frames_are_drawn_where_they_are_known():
    one = verdict(*video(0, 0.1))
    psnr, ssim, errors = diff_html._charts(["a"], [one])
    assert [chart.title for chart in (psnr, ssim, errors)] == [
        "PSNR a frame", "SSIM a frame", "Absolute errors"
    ]  # fmt: skip
    assert re.findall("<title>(.+?)</title>", psnr.svg) == ["a, 0: inf", "a, 1: 20"]
    assert psnr.note == "1 frames are equal; they are drawn at the upper edge."
    assert ssim.note == ""
    assert [chart.title for chart in diff_html._charts(["a"], [verdict(*video(0))])] == [
        "SSIM a frame"
    ]


def test_the_page_tells_names_layers_and_plans():
    plan = {"node": "conv", "x_shape": [1, None, 3], "w_shape": [], "strategy": "taps"}
    near = candidate("near.onnx", NEAR, layers=LAYERS, plan=(plan,), notes=("a note",))
    page = diff_html.to_html(result(near))
    text = re.sub("<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL)
    text = " ".join(html.unescape(text).split())
    for expected in (
        "1 candidate against a.onnx 1 feed, x 1x2. Gates: --atol 0.5; z --min-psnr 40.",
        "near.onnx Pass 19.82 - 0.25 0.25 c1 1.50 a.onnx reference 2.00",
        "Note: a note",
        "Output y Absolute errors",
        "near.onnx shape 2x3 float32 max abs 0.25 at [1, 2]",
        f"near.onnx: {LAYERS.sentence()} no.",
        "0 c0 c0 NCTHW 0 0 equal",
        "2 c2 it does not run c2 NCTHW - - -",
        "Note: a note on layers",
        "near.onnx: 1 Conv3D node input weights attributes strategy reason conv 1x?x3 ? taps",
        "diff-vae a.onnx b.onnx reference folder/a.onnx a runtime candidate near.onnx a runtime",
        "feed 0 seed 0 x 1x2 python 3|11",
    ):
        assert expected in text
    assert "Conversion plans" not in diff_html.to_html(result(candidate("b", NEAR)))


@pytest.mark.parametrize(("module", "package"), [("jinja2", "Jinja2"), ("PIL.Image", "Pillow")])
def test_what_a_page_needs_is_named(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"needs {package}; .*convert-vae\[report\]"):
        diff_html.check_installed()


def test_layers_are_drawn_where_they_have_an_error():
    layered = candidate("a", NEAR, layers=LAYERS)
    svg = diff_html._layer_chart(result(candidate("none", NEAR), layered))
    titles = re.findall("<title>(.+?)</title>", svg)
    assert titles == ["a, accumulated, layer, 1: 2", "a, local, layer, 1: 0.25"]
    assert [style in svg for style in ('"line s1"', '"line dash s1"')] == [True, True]


def test_a_reel_opens_on_the_frame_that_differs_most():
    """By the errors, not by their pictures, in which a small one may be a thousand times larger."""

    def strip(gain, *levels):
        pixel = np.zeros((2, 3, 3), np.uint8)
        frames = [
            FramePictures(5 + n, pixel, pixel, pixel + np.uint8(v)) for n, v in enumerate(levels)
        ]
        return Strip("y", 0, gain, 9, tuple(frames))

    reel = diff_html._reel([("near", strip(1000.0, 250, 0, 0)), ("far", strip(1.0, 0, 20, 10))])
    assert reel["start"] == 1
    assert (reel["output"], reel["feed"], reel["total"], reel["size"]) == ("y", 0, 9, (3, 2))
    assert reel["columns"] == [("near", "1,000"), ("far", "1")]
    assert [frame["frame"] for frame in reel["frames"]] == [5, 6, 7]
