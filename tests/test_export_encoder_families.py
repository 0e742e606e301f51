"""Every family's encoder as a graph, small and seeded: as exported and as converted."""

import onnx
import pytest

from converter import convert
from converter.export import export
from converter.export_check import check
from converter.origin import GraphOptions
from converter.session import CPU_ID, Session
from models.source import FAMILIES, open_source

ENCODER = GraphOptions(encoder=True)
NAMES = [family.name for family in FAMILIES if family.name not in ("Wan", "Qwen-Image")]
"""Wan's graph has tests of its own, and Qwen-Image's is the same."""


def exported(source, path, frames, *, dynamic):
    """The opened source and its graph, which is not compared with upstream yet."""
    opened = open_source(source, 0).adapted(ENCODER)
    video = opened.decoder.geometry.video_shape((1, 4, frames, 3, 2))
    export(source, path, seed=0, video=video, options=ENCODER, dynamic=dynamic, check=False)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return opened


def assert_equal_to_upstream(opened, path, latents):
    """The graph within the tolerance of an export, its conversion within twice that."""
    converted = path.with_name("converted.onnx")
    assert convert(path, converted, validate=False).conv3d_left == 0
    shapes = [opened.decoder.geometry.video_shape((1, 4, *sizes)) for sizes in latents]
    for file, factor in ((path, 1), (converted, 2)):
        session = Session(str(file), "cpu", CPU_ID)
        made = check(opened, lambda x, s=session: s.run({"video": x})["latent"], shapes, None)
        assert made.max_abs_error <= factor * made.tolerance, file
        assert made.tolerance < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_and_its_conversion_equal_upstream(small_source, tmp_path, name):
    path = tmp_path / "o.onnx"
    opened = exported(str(small_source(name, encoder=True)), path, 3, dynamic=False)
    assert_equal_to_upstream(opened, path, [(3, 3, 2)])


@pytest.mark.long
@pytest.mark.parametrize("frames", [2, 4])
def test_cogvideox_of_a_multiple_of_eight_frames(small_source, tmp_path, frames):
    """A dynamic graph of it has one frame more."""
    path = tmp_path / "o.onnx"
    opened = exported(str(small_source("CogVideoX", encoder=True)), path, frames, dynamic=False)
    assert_equal_to_upstream(opened, path, [(frames, 3, 2)])


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_graph_equals_upstream_at_other_sizes(small_source, tmp_path, name):
    path = tmp_path / "o.onnx"
    opened = exported(str(small_source(name, encoder=True)), path, 3, dynamic=True)
    assert_equal_to_upstream(opened, path, [(1, 3, 5), (5, 2, 3), (7, 4, 2)])
