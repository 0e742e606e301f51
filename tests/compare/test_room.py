import pytest

from converter.compare import room
from converter.compare.room import check_run, refuse_beyond_memory
from converter.compare.sides import open_side
from converter.compare.spool import Spool
from converter.errors import UserError
from tests.compare.graphs import conv3d, save

DIMS = (1, 2, 3, 12, 16)
# x has 2 and y 3 channels of 3 x 12 x 16 floats, the weights are 3 x 2 x 27 floats.
NEED = 4 * (5 * 3 * 12 * 16 + 3 * 2 * 27)


@pytest.fixture
def graph(tmp_path):
    return open_side(save(conv3d(dims=("N", 2, "T", "H", "W")), tmp_path / "a.onnx"), Spool())


@pytest.mark.parametrize("free", [NEED, NEED + 1, None])
def test_what_fits_is_let_through(graph, monkeypatch, free):
    monkeypatch.setattr(room, "available_bytes", lambda: free)
    check_run(graph, {"x": DIMS})


def test_what_cannot_fit_is_named_with_both_sizes(graph, monkeypatch):
    monkeypatch.setattr(room, "available_bytes", lambda: NEED - 1)
    with pytest.raises(UserError) as caught:
        check_run(graph, {"x": DIMS})
    assert str(caught.value) == (
        f"a run of {graph.path} on x=1x2x3x12x16 would take at least 12.2 kB of memory, by the "
        "sizes of its tensors, and 12.2 kB are free; give smaller inputs."
    )


def test_a_graph_whose_shapes_are_not_known_is_let_through(graph, monkeypatch):
    monkeypatch.setattr(room, "available_bytes", lambda: 0)
    check_run(graph, {})


def test_the_sizes_are_told(monkeypatch):
    monkeypatch.setattr(room, "available_bytes", lambda: 10**9)
    with pytest.raises(UserError, match=r"the feeds would take .* 3\.0 GB .* 1\.0 GB are free"):
        refuse_beyond_memory("the feeds", 3 * 10**9)
