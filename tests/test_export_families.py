"""Every family's graph, on small seeded decoders: as exported and as converted, by onnxruntime."""

import onnx
import pytest

from converter import convert
from converter.export_check import check
from converter.session import CPU_ID, Session
from models.source import FAMILIES, open_source
from tests.conftest import LATENT

NAMES = [family.name for family in FAMILIES]
UNSEEN = [(1, 4, 1, 3, 5), (1, 4, 2, 5, 4), (1, 4, 5, 2, 3)]


def assert_equal_to_upstream(opened, path, converted, shapes):
    """The graph within the tolerance of an export, its conversion within twice that."""
    for file, factor in ((path, 1), (converted, 2)):
        session = Session(str(file), "cpu", CPU_ID)
        made = check(opened, lambda z, s=session: s.run({"latent": z})["video"], shapes, None)
        assert made.max_abs_error <= factor * made.tolerance, file
        assert made.tolerance < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_and_its_conversion_equal_upstream(small_source, small_clip, tmp_path, name):
    path, converted = small_clip(name), tmp_path / "converted.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert convert(path, converted, validate=False).conv3d_left == 0
    assert_equal_to_upstream(open_source(str(small_source(name)), 0), path, converted, [LATENT])


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_graph_equals_upstream_at_other_sizes(small_source, small_clip, tmp_path, name):
    path, converted = small_clip(name, dynamic=True), tmp_path / "converted.onnx"
    assert convert(path, converted, validate=False).conv3d_left == 0
    assert_equal_to_upstream(open_source(str(small_source(name)), 0), path, converted, UNSEEN)
