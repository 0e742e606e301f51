import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from converter.compare.feeds import example_shape, make_feed, shape_ladder
from converter.compare.interface import TensorSpec
from converter.errors import UserError
from tests.compare.graphs import conv3d

F32 = TensorProto.FLOAT
EMPTY = conv3d(x="other")


def ladder(*specs, given=None, graph=EMPTY):
    return list(shape_ladder(specs, graph, given or {}))


def spec(*dims, name="x", elem_type=F32):
    return TensorSpec(name, elem_type, dims)


def test_a_static_graph_has_one_rung():
    assert ladder(spec(1, 2, 3)) == [{"x": (1, 2, 3)}]
    assert ladder() == [{}]


def test_video_dimensions_start_small_with_height_unlike_width():
    first = ladder(spec("N", 16, "T", "H", "W"))[0]
    assert first == {"x": (1, 16, 3, 8, 12)}


def test_the_ladder_has_square_frames_and_multiples():
    rungs = [shapes["x"] for shapes in ladder(spec(1, 16, None, None, None))]
    assert len(set(rungs)) == len(rungs)
    assert {rung[2] for rung in rungs} == {1, 3, 4, 5, 9, 17}
    assert {(8, 8), (16, 16), (32, 32), (16, 24)} <= {rung[3:] for rung in rungs}
    assert all(rung[:2] == (1, 16) for rung in rungs)


def test_only_open_dimensions_are_tried():
    assert len(ladder(spec(1, 16, "T", 8, 8))) == 6
    assert len(ladder(spec("N", 16, 3, 8, 8))) == 1


def test_images_and_sequences_and_vectors():
    assert ladder(spec("N", 3, "H", "W"))[0] == {"x": (1, 3, 8, 12)}
    assert ladder(spec("N", "L", "D"))[0] == {"x": (1, 3, 12)}
    assert ladder(spec("L"))[0] == {"x": (3,)}
    assert ladder(spec())[0] == {"x": ()}


def test_one_symbol_has_one_size():
    for shapes in ladder(spec(1, 2, "T", "S", "S"), spec("T", "S", name="t")):
        _, _, frames, height, width = shapes["x"]
        assert height == width
        assert shapes["t"] == (frames, height)


def test_multiples_of_a_symbol_fit_it():
    encoder = spec(1, 3, "4*T - 3", "8*H", "8*W")
    assert ladder(encoder)[0] == {"x": (1, 3, 5, 32, 48)}
    for shapes in ladder(encoder):
        _, _, frames, height, width = shapes["x"]
        assert (frames % 4, height % 8, width % 8) == (1, 0, 0)
    cache = spec(1, 2, 2, "2*H", "2*W", name="cache")
    assert ladder(spec(1, 4, 1, "H", "W"), cache)[0] == {
        "x": (1, 4, 1, 8, 12),
        "cache": (1, 2, 2, 16, 24),
    }
    given = ladder(spec(1, 4, 1, "H", "W"), cache, given={"cache": (1, 2, 2, 6, 10)})[0]
    assert given["x"] == (1, 4, 1, 3, 5)


def test_nameless_dimensions_are_apart():
    shapes = ladder(spec(1, 2, 3, None, None))[0]
    assert shapes["x"][3:] == (8, 12)


def test_channels_come_from_the_first_convolution():
    grouped = conv3d(channels=5, group=3)
    assert ladder(spec("N", "C", "T", "H", "W"), graph=grouped)[0] == {"x": (1, 15, 3, 8, 12)}
    plain = conv3d(channels=5)
    assert ladder(spec("N", "C", "T", "H", "W"), graph=plain)[0] == {"x": (1, 5, 3, 8, 12)}
    assert ladder(spec("N", "C", "T", "H", "W"))[0] == {"x": (1, 4, 3, 8, 12)}


def test_given_shapes_win_and_bind_their_symbols():
    shapes = ladder(
        spec("N", 2, "T", "H", "W"), spec("T", "K", name="t"), given={"x": (2, 2, 7, 5, 6)}
    )[0]
    assert shapes == {"x": (2, 2, 7, 5, 6), "t": (7, 12)}


def test_a_given_shape_replaces_an_unknown_rank():
    unknown = TensorSpec("x", F32, None)
    assert ladder(unknown, given={"x": (1, 2)}) == [{"x": (1, 2)}]
    with pytest.raises(UserError, match=r"does not state the shape of its input x.*--shape x=1x16"):
        ladder(unknown)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"z": (1,)}, "--shape names 'z', but the graph's inputs are: x, t, y"),
        ({"x": (1, 2)}, "--shape x=1x2 has rank 2, but the input is x float 1x2xT"),
        ({"x": (1, 3, 4)}, "has 3 on axis 1, but it must be 2: the input is x float 1x2xT"),
        ({"x": (1, 2, 4), "t": (5,)}, "--shape t=5 has 5 on axis 0, but it must be 4"),
        ({"x": (1, 2, 0)}, "--shape x=1x2x0: every size must be at least 1"),
        ({"x": (1, 2, 4), "y": (5,)}, "--shape y=5 has 5 on axis 0, but it must be 2*T: the input"),
        (
            {"x": (1, 2, 4), "y": (6,)},
            "--shape y=6 has 6 on axis 0, but it must be 8: the input is",
        ),
    ],
)
def test_wrong_given_shapes_are_one_sentence(given, words):
    with pytest.raises(UserError) as caught:
        ladder(spec(1, 2, "T"), spec("T", name="t"), spec("2*T", name="y"), given=given)
    assert words in str(caught.value)


def test_the_example_shape_keeps_what_is_fixed():
    assert example_shape(spec("N", 16, "T", "H", "W")) == "x=1x16x3x8x8"
    assert example_shape(TensorSpec("z", F32, None)) == "z=1x16x3x8x8"


def feed_of(elem_type, shape=(4000,), seed=0):
    return make_feed((spec(*shape, elem_type=elem_type),), {"x": shape}, seed)["x"]


@pytest.mark.parametrize(
    ("elem_type", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    ],
)
def test_floats_are_standard_normal(elem_type, dtype):
    values = feed_of(elem_type)
    assert values.dtype == dtype
    exact = values.astype(np.float64)
    # Standard errors at 4000 samples: 0.016 and 0.011.
    assert abs(exact.mean()) < 0.08
    assert abs(exact.std() - 1) < 0.06


@pytest.mark.parametrize("elem_type", [TensorProto.INT64, TensorProto.INT32])
def test_integers_are_small_and_not_negative(elem_type):
    assert set(feed_of(elem_type).tolist()) == {0, 1, 2, 3}


def test_bytes_are_all_bytes():
    values = feed_of(TensorProto.UINT8, shape=(8000,))
    assert values.dtype == np.uint8
    assert len(set(values.tolist())) == 256


def test_booleans_are_both():
    values = feed_of(TensorProto.BOOL)
    assert values.dtype == np.bool_
    assert abs(values.mean() - 0.5) < 0.05  # six standard errors at 4000 samples


def test_scalars_are_arrays():
    for elem_type in (F32, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.BOOL):
        value = feed_of(elem_type, shape=())
        assert isinstance(value, np.ndarray)
        assert value.shape == ()


def test_the_seed_decides():
    np.testing.assert_array_equal(feed_of(F32, seed=5), feed_of(F32, seed=5))
    assert (feed_of(F32, seed=5) != feed_of(F32, seed=6)).any()


def test_inputs_of_one_shape_differ():
    feed = make_feed((spec(9), spec(9, name="t")), {"x": (9,), "t": (9,)}, 0)
    assert (feed["x"] != feed["t"]).any()


def test_a_type_that_cannot_be_fed_is_named():
    with pytest.raises(UserError, match="x complex64 3 has a type that cannot be fed"):
        feed_of(TensorProto.COMPLEX64, shape=(3,))
