import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.bench.bench import Request, bench_graphs
from converter.bench.rounds import Rules
from converter.errors import UserError
from tests.compare.graphs import conv3d, model, save


def conv2d(path):
    """Not the same function as conv3d, with another input."""
    weights = numpy_helper.from_array(np.ones((1, 2, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["image", "w"], ["y"])
    ends = ("image", TensorProto.FLOAT, [1, 2, 8, 8]), ("y", TensorProto.FLOAT, [1, 1, 6, 6])
    return save(model([node], ends[:1], ends[1:], [weights]), path)


def stated(built, dims):
    built.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, dims))
    return built


def bench(*paths, **request):
    return bench_graphs(
        paths, Request(Rules(2), provider="cpu", threads=1, **request), lambda *step: None
    )


def test_two_graphs_are_measured_in_processes_of_their_own(tmp_path):
    dims = [1, 2, "T", "H", "W"]
    first = save(stated(conv3d(dims=dims), [1, 3, "t", "h", "w"]), tmp_path / "a.onnx")
    other = save(stated(conv3d(dims=dims, scale=2), [1, 3, "t", "h", "w"]), tmp_path / "b.onnx")
    found = bench(first, other, shapes={"x": (1, 2, 3, 4, 5)}, seed=3)
    assert found.feed_shapes == {"x": (1, 2, 3, 4, 5)}
    assert found.operations == 2 * (3 * 3 * 4 * 5) * (2 * 27)
    assert found.notes == ()
    a, b = found.lanes
    assert [lane.label for lane in found.lanes] == [str(first), str(other)]
    assert [len(lane.samples) for lane in (a, b, found.gemm)] == [2, 2, 2]
    assert all(sample.wall > 0 and sample.cpu > 0 for sample in (*a.samples, *b.samples))
    # The doubled weight times the element of the seeded feed that is largest there.
    x = np.random.default_rng(3).standard_normal((1, 2, 3, 4, 5), np.float32)
    weight = (np.random.default_rng(1).standard_normal((3, 2, 3, 3, 3)) / 8)[0, 0, 1, 1, 1]
    assert b.max_abs_error == pytest.approx(abs(weight) * np.abs(x[0, 0]).max(), rel=1e-4)
    assert "onnxruntime" in b.description


def test_without_shapes_the_rates_are_left_out_and_said_so(tmp_path):
    path = save(conv3d(), tmp_path / "a.onnx")  # its output states no shape
    found = bench(path)
    assert found.operations is None
    (note,) = found.notes
    assert note.startswith("GFLOP/s are not given:")


def test_graphs_that_do_not_fit_are_a_sentence(tmp_path):
    a, b = save(conv3d(), tmp_path / "a.onnx"), conv2d(tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"b\.onnx cannot be measured against .*a\.onnx: .*image"):
        bench(a, b)
    with pytest.raises(UserError, match="--shape names 'y'"):
        bench(a, shapes={"y": (1,)})
    with pytest.raises(UserError, match="cannot be read"):
        bench(a, tmp_path / "missing.onnx")
