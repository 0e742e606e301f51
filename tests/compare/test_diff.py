import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.compare.diff import DiffRequest, diff
from converter.compare.feeding import FeedPlan
from converter.compare.gates import Gates, Limits
from converter.errors import UserError
from tests.compare.graphs import conv3d, model, save

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
torch = pytest.importorskip("torch")

DIMS = (1, 2, 3, 12, 16)


def graph(path, **options):
    return save(conv3d(**{"dims": DIMS, **options}), path)


def expected(feed, scale=1.0):
    """The graph's output in float64 by PyTorch."""
    weights = np.random.default_rng(1).standard_normal((3, 2, 3, 3, 3)) / 8
    weights[0, 0, 1, 1, 1] *= scale
    weights = weights.astype(np.float32).astype(np.float64)
    x = torch.from_numpy(feed.astype(np.float64))
    return torch.nn.functional.conv3d(x, torch.from_numpy(weights), padding=1).numpy()


@pytest.fixture
def pair(tmp_path):
    return graph(tmp_path / "a.onnx"), graph(tmp_path / "b.onnx", scale=1.5)


def test_every_candidate_is_judged_against_the_reference(pair, tmp_path):
    same = graph(tmp_path / "same.onnx")
    result = diff(pair[0], (same, pair[1]), DiffRequest())
    assert [candidate.passed for candidate in result.candidates] == [True, False]
    assert not result.passed
    assert result.candidates[0].outputs[0].detail.difference.max_abs == 0
    feed = np.random.default_rng(0).standard_normal(DIMS, np.float32)
    error = np.abs(expected(feed, 1.5) - expected(feed))
    found = result.candidates[1].outputs[0]
    # Both sides are rounded to fp32 after 54 products of size 1.
    assert found.detail.difference.max_abs == pytest.approx(error.max(), abs=2e-6)
    assert found.detail.difference.mean_abs == pytest.approx(error.mean(), abs=2e-7)
    assert sum(found.histogram.counts) + found.histogram.zero == error.size
    assert len(found.detail.frames.frames) == 3


def test_several_seeds_are_several_feeds(pair):
    result = diff(pair[0], pair[1:], DiffRequest(feeds=FeedPlan(count=3, seed=5)))
    assert [feed.source for feed in result.feeds] == ["seed 5", "seed 6", "seed 7"]
    outputs = result.candidates[0].outputs
    assert [output.feed for output in outputs] == [0, 1, 2]
    for seed, output in zip((5, 6, 7), outputs, strict=True):
        feed = np.random.default_rng(seed).standard_normal(DIMS, np.float32)
        error = np.abs(expected(feed, 1.5) - expected(feed)).max()
        assert output.detail.difference.max_abs == pytest.approx(error, abs=2e-6)


def test_feeds_come_from_files(pair, tmp_path):
    feed = np.full(DIMS, 0.5)
    np.save(tmp_path / "z.npy", feed)
    request = DiffRequest(feeds=FeedPlan(files=(tmp_path / "z.npy",)))
    result = diff(pair[0], pair[1:], request)
    assert [(f.source, f.shapes) for f in result.feeds] == [("z.npy", {"x": DIMS})]
    error = np.abs(expected(feed, 1.5) - expected(feed)).max()
    found = result.candidates[0].outputs[0].detail.difference.max_abs
    assert found == pytest.approx(error, abs=2e-6)


def test_saved_outputs_compare_like_the_graphs(pair, tmp_path):
    request = DiffRequest(
        feeds=FeedPlan(count=2),
        save_inputs=tmp_path / "in.npz",
        save_outputs=tmp_path / "out",
    )
    live = diff(pair[0], pair[1:], request)
    saved = diff(tmp_path / "out/a.npz", (tmp_path / "out/b.npz",), DiffRequest())
    feeds = DiffRequest(feeds=FeedPlan(files=(tmp_path / "in.npz",)))
    mixed = diff(tmp_path / "out/a.npz", (pair[1],), feeds)
    figures = [[o.detail for o in r.candidates[0].outputs] for r in (live, saved, mixed)]
    assert len(figures[0]) == 2
    assert figures[0] == figures[1] == figures[2]
    assert saved.reference.seconds is None


def test_a_graph_alone_saves_its_outputs(pair, tmp_path):
    result = diff(pair[0], (), DiffRequest(save_outputs=tmp_path / "out"))
    assert result.passed
    with np.load(tmp_path / "out/a.npz") as saved:
        feed = np.random.default_rng(0).standard_normal(DIMS, np.float32)
        np.testing.assert_allclose(saved["y"], expected(feed), atol=2e-6)
    with pytest.raises(UserError, match="name a candidate"):
        diff(pair[0], (), DiffRequest())


def test_gates_decide(pair):
    loose = DiffRequest(gates=Gates(Limits(atol=10.0)))
    assert diff(pair[0], pair[1:], loose).passed
    named = DiffRequest(gates=Gates(by_output={"y": Limits(atol=1e-6)}))
    failed = diff(pair[0], pair[1:], named).candidates[0]
    assert not failed.passed
    assert "needs --atol" in failed.sentence()
    assert "would have passed" in failed.sentence()
    with pytest.raises(UserError, match="a gate names the output 'video'; there are: y"):
        diff(pair[0], pair[1:], DiffRequest(gates=Gates(by_output={"video": Limits(atol=1)})))


def test_other_names_are_paired_by_position(pair, tmp_path):
    other = graph(tmp_path / "c.onnx", x="latent", y="video")
    (found,) = diff(pair[0], (other,), DiffRequest()).candidates
    assert found.passed
    assert (found.outputs[0].name, found.outputs[0].candidate_name) == ("y", "video")
    assert "paired by position: output y is video" in found.notes[0]


def test_half_precision_is_fed_and_compared_in_the_wider_type(pair, tmp_path):
    half = graph(tmp_path / "h.onnx", elem_type=TensorProto.FLOAT16)
    (found,) = diff(pair[0], (half,), DiffRequest()).candidates
    assert found.passed  # by what fp16 explains
    assert 0 < found.outputs[0].detail.difference.max_abs < 1e-2
    assert "float32 in the reference and float16" in found.notes[0]


def test_names_and_shapes_that_do_not_match_are_named(pair, tmp_path):
    more = save(
        model(
            [helper.make_node("Add", ["x", "z"], ["y"])],
            [("x", 1, DIMS), ("z", 1, DIMS)],
            [("y", 1, None)],
        ),
        tmp_path / "more.onnx",
    )
    with pytest.raises(UserError, match=r"a\.onnx has x, .*more\.onnx has x, z; tried by name and"):
        diff(pair[0], (more,), DiffRequest())
    wide = graph(tmp_path / "wide.onnx", dims=(1, 2, 3, 12, 20))
    with pytest.raises(UserError, match=r"1x2x3x12x16 .* 1x2x3x12x20"):
        diff(pair[0], (wide,), DiffRequest())


@pytest.mark.parametrize(
    ("feed", "complaint"),
    [
        (np.full(DIMS, np.nan, np.float32), r"NaN or infinite at \(0, 0, 0, 0, 0\)"),
        (np.zeros((1, 2, 3, 4), np.float32), "has shape 1x2x3x4, but the input is x"),
        (np.zeros((1, 2, 3, 12, 17), np.float32), "has shape 1x2x3x12x17"),
        (np.zeros(DIMS, np.int64), "is int64"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused(pair, tmp_path, feed, complaint):
    np.save(tmp_path / "z.npy", feed)
    with pytest.raises(UserError, match=complaint):
        diff(pair[0], pair[1:], DiffRequest(feeds=FeedPlan(files=(tmp_path / "z.npy",))))


def test_a_feed_that_lacks_an_input_is_refused(pair, tmp_path):
    np.savez(tmp_path / "z.npz", a=np.zeros(DIMS), b=np.zeros(DIMS))
    with pytest.raises(UserError, match="no array for the input x; it holds a, b"):
        diff(pair[0], pair[1:], DiffRequest(feeds=FeedPlan(files=(tmp_path / "z.npz",))))


def test_feeds_make_no_sense_without_a_graph(pair, tmp_path):
    np.savez(tmp_path / "o.npz", y=np.zeros(DIMS))
    request = DiffRequest(feeds=FeedPlan(files=(tmp_path / "o.npz",)))
    with pytest.raises(UserError, match="need a graph"):
        diff(tmp_path / "o.npz", (tmp_path / "o.npz",), request)


def test_other_numbers_of_feeds_are_refused(pair, tmp_path):
    two = DiffRequest(feeds=FeedPlan(count=2), save_outputs=tmp_path / "two")
    diff(pair[0], pair[1:], two)
    diff(pair[0], pair[1:], DiffRequest(save_outputs=tmp_path / "one"))
    with pytest.raises(UserError, match=r"of 2 feeds, .* of 1"):
        diff(tmp_path / "two/a.npz", (tmp_path / "one/b.npz",), DiffRequest())
    with pytest.raises(UserError, match="holds the outputs of 2 feeds, and there are 1"):
        diff(tmp_path / "two/a.npz", (pair[1],), DiffRequest())


def test_a_graph_that_onnxruntime_cannot_run_runs_in_the_evaluator(pair, tmp_path):
    fine = graph(tmp_path / "d.onnx", elem_type=TensorProto.DOUBLE)
    result = diff(fine, pair[:1], DiffRequest())
    assert "reference evaluator" in result.reference.evaluator
    assert "onnxruntime" in result.candidates[0].run.evaluator
    assert result.passed


def test_open_sizes_are_found_on_the_reference(tmp_path):
    dims = ("N", 2, "T", "H", "W")
    a, b = graph(tmp_path / "a.onnx", dims=dims), graph(tmp_path / "b.onnx", dims=dims)
    assert diff(a, (b,), DiffRequest()).feeds[0].shapes == {"x": (1, 2, 3, 8, 12)}
    given = DiffRequest(feeds=FeedPlan(shapes={"x": DIMS}))
    assert diff(a, (b,), given).feeds[0].shapes == {"x": DIMS}


def test_scalars_integers_and_zeros_go_through(tmp_path):
    """A whole number and an empty output beside a float."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["x", "zero", "zero"], ["nothing"]),
    ]
    outputs = [("total", 1, []), ("shape", TensorProto.INT64, [2]), ("nothing", 1, None)]
    zero = numpy_helper.from_array(np.zeros(1, np.int64), "zero")
    path = save(model(nodes, [("x", 1, [3, 4])], outputs, [zero]), tmp_path / "a.onnx")
    result = diff(path, (path,), DiffRequest())
    assert result.passed
    assert [o.detail.difference.dtype for o in result.candidates[0].outputs] == [
        "float32",
        "int64",
        "float32",
    ]


def test_the_json_is_versioned_and_strict(pair):
    result = diff(pair[0], pair[1:], DiffRequest(gates=Gates(Limits(min_psnr=500))))
    report = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (report["schema"], report["version"]) == ("convert-vae.diff", 1)
    assert report["passed"] is False
    (candidate,) = report["candidates"]
    (output,) = candidate["outputs"]
    assert output["failures"][0]["gate"] == "min_psnr"
    assert output["passing"]["atol"] >= output["max_abs"]
    assert report["environment"]["onnxruntime"]
