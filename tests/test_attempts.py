"""Where the validation rejects a graph, the next has smaller tiles, and the last no Winograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.numpy_helper import from_array

from converter import UserError, accuracy, attempts, convert
from converter.attempts import run
from converter.choice import Choice
from converter.convert import Options
from converter.result import ConvertResult
from converter.rewrites import winograd
from tests import small_models
from tests.small_models import draw, save, value

CHANNELS, FRAMES, SIZE, LAYERS = 16, 8, 8, 6
FULL = ["winograd"] * LAYERS
EXACT = ["unfold"] * LAYERS


@pytest.fixture
def source(tmp_path) -> Path:
    return save(small_models.two_conv3d(), tmp_path / "in.onnx")


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out.onnx"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    """Causal layers of 8 frames: one tile of F(8, 3) each, if nothing is asked."""
    names = ["x", *(f"a{i}" for i in range(1, LAYERS)), "y"]
    shape = [1, CHANNELS, FRAMES, SIZE, SIZE]
    weights = (CHANNELS, CHANNELS, 3, 3, 3)
    scale = np.float32((CHANNELS * 27) ** -0.5)
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[2, 1, 1, 0, 1, 1])
        for i in range(LAYERS)
    ]
    constants = [from_array(draw(weights, i) * scale, f"w{i}") for i in range(LAYERS)]
    proto = small_models.model(nodes, [value("x", shape)], [value("y", shape)], constants)
    return save(proto, tmp_path_factory.mktemp("decoder") / "in.onnx")


def made(source: Path, output: Path, **options: object) -> tuple[ConvertResult, int]:
    """The result, and how many validations it took."""
    phases: list[str] = []
    settings = Options(provider="cpu", target="cpu", overwrite=True, **options)  # type: ignore[arg-type]
    result = run(source, output, settings, phases.append)
    return result, phases.count("validate")


def strategies(result: ConvertResult) -> list[str]:
    return [entry.strategy for entry in result.plan.entries]


def psnr(result: ConvertResult) -> float:
    assert result.validation is not None
    return result.validation.outputs[0].psnr_db


# --- a budget ------------------------------------------------------------------------------------

ASKED = 120.0
"""dB; by estimate, the full tiles reach 117.6, tiles of 4 frames 131.3, those of 2 137.7."""


def test_the_plan_keeps_to_the_psnr_asked_by_estimate(decoder, output):
    """The estimate is on the safe side: half the layers go from F(8, 3) to F(4, 3)."""
    result, validations = made(decoder, output, min_psnr=ASKED)
    assert strategies(result) == ["winograd6"] * 3 + ["winograd"] * 3
    assert validations == 1
    assert psnr(result) >= ASKED
    assert result.written
    assert [bool(e.given_up_for) for e in result.plan.entries] == [True] * 3 + [False] * 3
    assert result.plan.entries[0].reason == "tiles of at most 6 frames, for the accuracy asked"
    assert result.notes == (
        "Winograd was cut down in 3 Conv3D for the accuracy asked, by estimate",
    )
    groups = [a.i for n in onnx.load(output).graph.node for a in n.attribute if a.name == "group"]
    assert groups == [6] * 3 + [10] * 3


@pytest.mark.parametrize(("least", "tiles"), [(126, "winograd6"), (137, "winograd2")])
def test_more_is_asked_and_all_tiles_are_small(decoder, output, least, tiles):
    result, validations = made(decoder, output, min_psnr=least)
    assert strategies(result) == [tiles] * LAYERS
    assert validations == 1
    assert psnr(result) >= least


def test_20_db_less_leave_the_full_tiles(decoder, output):
    result, validations = made(decoder, output, min_psnr=ASKED - 20)
    assert strategies(result) == FULL
    assert validations == 1
    assert psnr(result) >= ASKED - 20
    assert result.notes == ()


def test_20_db_more_leave_no_winograd(decoder, output):
    result, validations = made(decoder, output, min_psnr=ASKED + 20)
    assert strategies(result) == EXACT
    assert validations == 1
    assert psnr(result) >= ASKED + 20
    assert result.notes == (
        "Winograd was left out of 6 Conv3D for the accuracy asked, by estimate",
    )


def test_the_dry_run_shows_what_the_budget_allows(decoder):
    result = run(decoder, None, Options(target="cpu", min_psnr=ASKED, dry_run=True), lambda _: None)
    assert strategies(result) == ["winograd6"] * 3 + ["winograd"] * 3


# --- where the estimate was wrong ----------------------------------------------------------------


@pytest.fixture
def hopeful(monkeypatch):
    """An estimate that takes every plan for 60 dB better than it is."""
    monkeypatch.setattr(accuracy, "OFFSET_DB", accuracy.OFFSET_DB + 60)


@pytest.mark.parametrize("least", [130.0, 138.0])
def test_a_measured_miss_corrects_the_estimate(hopeful, decoder, output, least):
    """Full tiles first, 125 dB; then no more is given up than what is lacking."""
    result, validations = made(decoder, output, min_psnr=least)
    assert validations in (2, 3)
    assert psnr(result) >= least
    assert result.written
    assert all(name.startswith("winograd") for name in strategies(result))
    (note,) = result.notes
    assert note.startswith("Winograd was cut down in ")
    assert note.endswith(f" dB < {least:g} dB")


def test_tries_are_bounded_and_the_last_is_without_winograd(hopeful, decoder, output, monkeypatch):
    """Even where no estimate ever helps: here none is corrected."""
    monkeypatch.setattr(attempts, "_next_budget", lambda result: result.error * 0.999)
    result, validations = made(decoder, output, min_psnr=143)
    assert validations == attempts.ATTEMPTS
    assert strategies(result) == EXACT
    assert psnr(result) >= 143


def test_what_nothing_reaches_is_not_written(decoder, output):
    result, validations = made(decoder, output, min_psnr=1000)
    assert strategies(result) == EXACT
    assert validations == 1
    assert not result.written
    assert not output.exists()


# --- where Winograd itself is at fault -----------------------------------------------------------


def to_winograd(conv):
    return Choice("winograd", "as the test says", seconds={"winograd": 1, "taps": 2, "unfold": 3})


def spoil_winograd(monkeypatch) -> None:
    """Give its products the weights twice as large."""
    right = winograd._weight
    monkeypatch.setattr(
        winograd, "_weight", lambda emit, m: emit.node("Add", [right(emit, m)] * 2, "x")
    )


def test_auto_does_without_winograd_where_the_validation_rejects_it(source, output, monkeypatch):
    spoil_winograd(monkeypatch)
    options = Options(choose=to_winograd, pins={"second": "unfold"}, keep_invalid=True)
    result = run(source, output, options, lambda phase: None)
    assert result.written
    assert result.equal
    assert [entry.strategy for entry in result.plan.entries] == ["taps", "unfold"]
    assert any(n.startswith("Winograd was left out of 1 Conv3D for the") for n in result.notes)


def test_winograd_that_was_asked_for_stays(source, output, monkeypatch):
    spoil_winograd(monkeypatch)
    result = convert(source, output, pins={"first": "winograd"}, strategy="taps")
    assert not result.written
    assert result.plan.entries[0].strategy == "winograd"
    kept = convert(source, output, strategy="winograd", keep_invalid=True)
    assert kept.written
    assert not kept.equal


def test_a_least_psnr_needs_the_validation(source, output):
    with pytest.raises(UserError, match="a least PSNR is what the validation checks"):
        convert(source, output, min_psnr=100, validate=False)
