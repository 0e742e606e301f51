"""What the README shows to contributors works as it stands."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter import convert
from converter.rewrites import BY_NAME, Strategy
from tests import small_models
from tests.execute import conv3d_left
from tests.small_models import save

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> SimpleNamespace:
    """The last Python block: the strategy `point`."""
    names: dict[str, object] = {"__name__": "point"}
    exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[-1], names)
    return SimpleNamespace(**names)


@pytest.mark.parametrize("dims", [("N", 4, "T", 5, 6), (1, 4, 3, 5, 6)])
def test_the_strategy_of_the_example_is_exact(tmp_path, monkeypatch, dims):
    import onnx

    point = example()
    monkeypatch.setitem(BY_NAME, "point", Strategy(point.NAME, point.check, point.rewrite))
    proto = small_models.conv3d(dims=dims, kernel=(1, 1, 1))
    result = convert(
        save(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx", strategy="point", layout=False
    )
    assert [e.strategy for e in result.plan.entries] == ["point"]
    assert result.validation.passed
    assert conv3d_left(onnx.load(tmp_path / "out.onnx")) == []


@pytest.mark.parametrize(
    "proto",
    [
        small_models.conv3d(),
        small_models.conv3d(kernel=(1, 1, 1), strides=[1, 2, 1]),
        small_models.conv3d(kernel=(1, 1, 1), dims=(1, 4, 3, "H", 6)),
    ],
)
def test_the_strategy_of_the_example_refuses_the_rest(tmp_path, monkeypatch, proto):
    point = example()
    monkeypatch.setitem(BY_NAME, "point", Strategy(point.NAME, point.check, point.rewrite))
    result = convert(save(proto, tmp_path / "in.onnx"), None, strategy="point", dry_run=True)
    assert result.plan.entries[0].refused


def test_every_file_that_is_named_is_there():
    scripts = set(re.findall(r"scripts/[\w.]+", README))
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= scripts
    for name in scripts | {"LICENSE"}:
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(converter/[\w/]+\.py)`", README):
        assert (ROOT / name).is_file(), name


def test_every_option_that_is_named_is_there():
    from converter.cli.convert_vae import main

    known = {option for p in main.params for option in (*p.opts, *p.secondary_opts)}
    table = README[README.index("The options used most") : README.index("### From Python")]
    named = set(re.findall(r"`(--[a-z-]+)", table)) | set(re.findall(r", `(--[a-z-]+)", table))
    assert named - {"--help"} <= known
