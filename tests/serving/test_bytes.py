"""A stream whose video is bytes (N, T, H, W, 3), as of export-vae --uint8."""

import io
import json
import queue
from types import SimpleNamespace

import av
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image

from converter.serving.model import open_model
from converter.serving.server import _frames
from tests import stream_graphs
from tests.patience import PATIENCE
from tests.serving.asking import ask
from tests.serving.running import running
from tests.serving.test_decode import npy

Z = stream_graphs.latent(5)
VIDEO = (64 * stream_graphs.decode(Z) + 128).clip(0, 255).transpose(0, 2, 3, 4, 1)
"""In float64, not cut to whole numbers: these are within 1 below it, and fp32's rounding."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    path = stream_graphs.write(folder / "pixels.json", 2, uint8=True)
    with running([open_model(path, provider="cpu")]) as serving:
        yield SimpleNamespace(
            http=f"127.0.0.1:{serving.http_port}",
            grpc=f"127.0.0.1:{serving.grpc_port}",
            server=serving.server,
        )


def asked(library):
    latent = library.InferInput("latent", list(Z.shape), "FP32")
    latent.set_data_from_numpy(Z)
    return [latent]


def assert_the_video(made):
    assert made.dtype == np.uint8
    assert made.shape == (1, 5, 4, 5, 3)
    difference = VIDEO - made
    assert difference.min() > -1e-3
    assert difference.max() < 1 + 1e-3
    assert made.std() > 10


def test_its_metadata_says_so(served):
    client = triton_http.InferenceServerClient(served.http)
    (output,) = client.get_model_metadata("pixels")["outputs"]
    assert output == {"name": "video", "datatype": "UINT8", "shape": [1, -1, 4, 5, 3]}
    model = served.server.models["pixels"]
    assert model.output_shapes({"latent": Z.shape}) == {"video": (1, 5, 4, 5, 3)}
    client.close()


def test_its_chunks_are_joined_along_t(served):
    client = triton_http.InferenceServerClient(served.http)
    assert_the_video(client.infer("pixels", asked(triton_http)).as_numpy("video"))
    client.close()


def test_its_chunks_over_grpc(served):
    client = triton_grpc.InferenceServerClient(served.grpc)
    replies = queue.Queue()
    client.start_stream(lambda result, error: replies.put(error or result))
    client.async_stream_infer("pixels", asked(triton_grpc))
    parts = [replies.get(timeout=PATIENCE).as_numpy("video") for _ in range(3)]
    client.stop_stream()
    assert [part.shape[1] for part in parts] == [2, 2, 1]
    assert_the_video(np.concatenate(parts, 1))


def test_decode_shows_the_bytes_as_they_are(served):
    path = "/v2/models/pixels/decode"
    status, answer, _ = ask(served, "POST", path, npy(Z), {"Accept": "application/x-npy"})
    assert status == 200, answer
    video = np.load(io.BytesIO(answer))
    assert_the_video(video)
    _, answer, _ = ask(served, "POST", f"{path}?frame=3", npy(Z), {"Accept": "image/png"})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer))), video[0, 3])
    _, answer, _ = ask(served, "POST", path, npy(Z), {"Accept": "video/mp4"})
    with av.open(io.BytesIO(answer)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    # Colour at half the resolution on random pixels: the brightness is what survives.
    for got, wanted in zip(frames, video[0], strict=True):
        assert abs(got[:, :5].astype(float).mean() - wanted.mean()) < 12


def test_its_frames_are_counted(served):
    assert _frames({"video": np.zeros((1, 7, 4, 5, 3), np.uint8)}) == 7
    assert _frames({"video": np.zeros((1, 3, 7, 4, 5), np.float32)}) == 7


def test_what_is_not_three_colours_is_no_video(served):
    model = served.server.models["pixels"]
    whole = model.outputs
    try:
        model.outputs = (type(whole[0])("video", "UINT8", (1, -1, 4, 5, 4)),)
        status, answer, _ = ask(served, "POST", "/v2/models/pixels/decode", npy(Z))
    finally:
        model.outputs = whole
    assert (status, "is no decoder" in json.loads(answer)["error"]) == (400, True)
