import json

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from converter import origin
from converter.errors import UserError
from converter.origin import GraphOptions, Origin
from converter.runtime import Decoder
from converter.runtime.graphs import StreamGraphs
from tests import stream_graphs

# fp32 sums of 216 products of size 1 against float64.
TOLERANCE = 1e-5


def clip(path, shape=(1, 8, "T", "H", "W"), kind=TensorProto.FLOAT):
    """A graph that doubles and drops channels: 8 -> 3."""
    info = helper.make_tensor_value_info
    three = onnx.numpy_helper.from_array(np.array([0], np.int64), "zero")
    end = onnx.numpy_helper.from_array(np.array([3], np.int64), "three")
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Slice", ["latent", "zero", "three", "axis"], ["s"]),
        helper.make_node("Add", ["s", "s"], ["video"]),
    ]
    video = info("video", kind, [shape[0], 3, *shape[2:]])
    body = helper.make_graph(nodes, "g", [info("latent", kind, shape)], [video], [three, end, axis])
    onnx.save(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


def clip_of_bytes(path):
    """The first three channels as bytes, frames first, as of export-vae --uint8."""
    info = helper.make_tensor_value_info
    bounds = [
        onnx.numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("zero", 0), ("three", 3), ("one", 1))
    ]
    nodes = [
        helper.make_node("Slice", ["latent", "zero", "three", "one"], ["s"]),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["c"], ["video"], perm=[0, 2, 3, 4, 1]),
    ]
    latent = info("latent", TensorProto.FLOAT, [1, 8, "T", "H", "W"])
    video = info("video", TensorProto.UINT8, [1, "T", "H", "W", 3])
    body = helper.make_graph(nodes, "g", [latent], [video], bounds)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(body, opset_imports=opset, ir_version=8), path)
    return path


def with_origin(path, **changes):
    """Note in a graph what it was made of."""
    sizes = {"channels": 8, "video_channels": 3, "time": 1, "space": 1, "least": 1}
    made = Origin("A", "0", {}, {}, frames="every", **(sizes | changes))
    model = onnx.load(path)
    model.metadata_props.add(key=origin.KEY, value=json.dumps(made.to_json()))
    onnx.save(model, path)
    return path


def pixels(video):
    """(N, 3, T, H, W) of -1 to 1 as bytes (N, T, H, W, 3)."""
    return np.round((video.clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 4, 1)


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7])
def test_any_number_of_frames_equals_the_whole_clip(tmp_path, chunk, frames):
    decoder = Decoder(stream_graphs.write(tmp_path / "a.json", chunk), "cpu")
    z = stream_graphs.latent(frames)
    expected = stream_graphs.decode(z)
    chunks = list(decoder.stream(z))
    assert [c.shape[2] for c in chunks] == [
        min(chunk, frames - start) for start in range(0, frames, chunk)
    ]
    assert decoder.frames(frames) == frames
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.concatenate(chunks, 2), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(decoder.decode(z), np.concatenate(chunks, 2))


def test_two_clips_at_once_and_one_after_the_other_stay_apart(tmp_path):
    decoder = Decoder(stream_graphs.write(tmp_path / "a.json", 1), "cpu")
    clips = stream_graphs.latent(3), stream_graphs.latent(4)[:, :, 1:]
    mixed = list(zip(*(decoder.stream(z) for z in clips), strict=True))
    for number, z in enumerate(clips):
        video = np.concatenate([chunks[number] for chunks in mixed], 2)
        np.testing.assert_allclose(video, stream_graphs.decode(z), rtol=0, atol=TOLERANCE)
        np.testing.assert_array_equal(decoder.decode(z), video)
    both = decoder.decode(np.concatenate(clips))
    np.testing.assert_array_equal(both, np.concatenate([decoder.decode(z) for z in clips]))


def test_chunks_are_made_when_they_are_asked_for(tmp_path, monkeypatch):
    decoder = Decoder(stream_graphs.write(tmp_path / "a.json", 1), "cpu")
    runs = []
    begin = StreamGraphs.begin

    def counted(self):
        decode = begin(self)
        return lambda part: runs.append(1) or decode(part)

    monkeypatch.setattr(StreamGraphs, "begin", counted)
    chunks = decoder.stream(stream_graphs.latent(3))
    assert len(runs) == 0
    next(chunks)
    assert len(runs) == 1


def test_any_size_where_the_manifest_says_so(tmp_path):
    decoder = Decoder(stream_graphs.write(tmp_path / "a.json", dynamic=True), "cpu")
    for z in (stream_graphs.latent(3, 2, 7), stream_graphs.latent(3, 6, 3)):
        expected = stream_graphs.decode(z)
        np.testing.assert_allclose(decoder.decode(z), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["a.json", "a.onnx"])
def test_bytes(tmp_path, name):
    path = tmp_path / name
    decoder = Decoder(stream_graphs.write(path) if name == "a.json" else clip(path), "cpu")
    z = stream_graphs.latent(5)
    expected = pixels(decoder.decode(z))
    assert len(np.unique(expected)) > 50
    made = decoder.decode(z, uint8=True)
    assert made.dtype == np.uint8
    # Half a step may round to either side.
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert (made != expected).mean() < 1e-3
    np.testing.assert_array_equal(np.concatenate(list(decoder.stream(z, uint8=True)), 1), made)


def test_a_clip_graph(tmp_path):
    decoder = Decoder(clip(tmp_path / "a.onnx"), "cpu")
    assert decoder.chunk is None
    assert decoder.frames(4) is None
    z = stream_graphs.latent(4)
    (video,) = decoder.stream(z)
    np.testing.assert_array_equal(video, 2 * z[:, :3])
    fixed = Decoder(clip(tmp_path / "b.onnx", (1, 8, 4, 4, 5)), "cpu")
    assert fixed.frames(4) == 4
    with pytest.raises(UserError, match="the latent has 3 on T, but this decoder was made for 4"):
        fixed.decode(z[:, :, 1:])


def test_tensors_of_pytorch_come_back_as_such(tmp_path):
    decoder = Decoder(stream_graphs.write(tmp_path / "a.json"), "cpu")
    z = stream_graphs.latent(5)
    expected = decoder.decode(z)
    for video in (
        decoder.decode(torch.from_numpy(z)),
        torch.cat(list(decoder.stream(torch.from_numpy(z))), 2),
    ):
        assert isinstance(video, torch.Tensor)
        np.testing.assert_array_equal(video.numpy(), expected)
    made = decoder.decode(torch.from_numpy(z), uint8=True)
    assert made.dtype == torch.uint8
    np.testing.assert_array_equal(made.numpy(), decoder.decode(z, uint8=True))


def test_another_tensor_by_dlpack(tmp_path):
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    decoder = Decoder(clip(tmp_path / "a.onnx"), "cpu")
    z = stream_graphs.latent(2)
    np.testing.assert_array_equal(decoder.decode(Foreign(z)), decoder.decode(z))
    with pytest.raises(UserError, match="not a list"):
        decoder.decode([z])


@pytest.mark.parametrize("narrow", [np.float16, ml_dtypes.bfloat16])
def test_a_narrower_latent_is_widened(tmp_path, narrow):
    decoder = Decoder(clip(tmp_path / "a.onnx"), "cpu")
    z = stream_graphs.latent(2).astype(narrow)
    np.testing.assert_array_equal(decoder.decode(z), 2 * z[:, :3].astype(np.float32))


def test_a_narrower_tensor_of_pytorch_is_widened(tmp_path):
    decoder = Decoder(clip(tmp_path / "a.onnx"), "cpu")
    z = torch.from_numpy(stream_graphs.latent(2)).bfloat16()
    assert torch.equal(decoder.decode(z), 2 * z[:, :3].float())


def test_a_graph_of_halves_takes_no_wider_latent(tmp_path):
    decoder = Decoder(clip(tmp_path / "a.onnx", kind=TensorProto.FLOAT16), "cpu")
    z = stream_graphs.latent(2)
    np.testing.assert_array_equal(decoder.decode(z.astype(np.float16)), 2 * z[:, :3].astype("f2"))
    with pytest.raises(UserError, match="the latent is float32; this decoder takes float16"):
        decoder.decode(z)


@pytest.mark.parametrize(
    ("z", "complaint"),
    [
        (np.zeros((1, 8, 3, 4), np.float32), r"not of shape \(1, 8, 3, 4\)"),
        (np.zeros((1, 8, 0, 4, 5), np.float32), r"not of shape \(1, 8, 0, 4, 5\)"),
        (np.zeros((1, 8, 3, 4, 5)), "the latent is float64; this decoder takes float32"),
        (np.zeros((1, 8, 3, 4, 5), np.int8), "the latent is int8; this decoder takes float32"),
        (np.zeros((2, 8, 3, 4, 5), np.float32), "2 on N, but this decoder was made for 1"),
        (np.zeros((1, 4, 3, 4, 5), np.float32), "4 on C, but this decoder was made for 8"),
        (np.zeros((1, 8, 3, 5, 5), np.float32), "5 on H, but this decoder was made for 4"),
        (np.zeros((1, 8, 3, 4, 4), np.float32), "4 on W, but this decoder was made for 5"),
        (np.full((1, 8, 3, 4, 5), np.inf, np.float32), "not finite"),
        (np.full((1, 8, 3, 4, 5), np.nan, np.float32), "not finite"),
    ],
)
def test_a_latent_that_does_not_fit_is_refused_at_once(tmp_path, z, complaint):
    decoder = Decoder(stream_graphs.write(tmp_path / "a.json"), "cpu")
    with pytest.raises(UserError, match=complaint):
        decoder.stream(z)


@pytest.mark.parametrize("uint8", [True, False])
def test_a_graph_of_bytes_makes_them_always(tmp_path, uint8):
    decoder = Decoder(clip_of_bytes(tmp_path / "a.onnx"), "cpu")
    assert decoder.video_dtype == np.uint8
    z = np.random.default_rng(0).integers(0, 256, (2, 8, 3, 4, 5)).astype(np.float32)
    video = decoder.decode(z, uint8=uint8)
    np.testing.assert_array_equal(video, z[:, :3].transpose(0, 2, 3, 4, 1))


def test_what_a_graph_says_of_itself(tmp_path):
    decoder = Decoder(with_origin(clip(tmp_path / "a.onnx"), time=4, least=5), "cpu")
    assert decoder.frames(3) == 12
    assert decoder.space == 1
    with pytest.raises(UserError, match="4 on H and 5 on W, but this decoder takes no less than 5"):
        decoder.decode(stream_graphs.latent(3))
    encoder = with_origin(clip(tmp_path / "b.onnx"), graph=GraphOptions(encoder=True))
    with pytest.raises(UserError, match=r"b\.onnx encodes"):
        Decoder(encoder, "cpu")


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"x\.onnx does not exist"):
        Decoder(tmp_path / "x.onnx", "cpu")
    with pytest.raises(UserError, match=r"manifest .*x\.json does not exist"):
        Decoder(tmp_path / "x.json", "cpu")


def test_an_unknown_provider(tmp_path):
    with pytest.raises(UserError, match="unknown provider 'gpu'"):
        Decoder(stream_graphs.write(tmp_path / "a.json"), "gpu")
