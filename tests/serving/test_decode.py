"""`POST /v2/models/NAME/decode`: a latent in, a video out."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from converter.video_file import to_uint8
from tests import stream_graphs
from tests.serving.asking import ask

PATH = "/v2/models/wan/decode"


def npy(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **how)
    return file.getvalue()


Z = stream_graphs.latent(5)


def test_npy_is_the_video_itself(served):
    for sent in (npy(Z), npy(np.asfortranarray(Z)), npy(Z, version=(2, 0))):
        status, answer, headers = ask(served, "POST", PATH, sent, {"Accept": "application/x-npy"})
        assert status == 200
        assert int(headers["content-length"]) == len(answer)
        video = np.load(io.BytesIO(answer), allow_pickle=False)
        np.testing.assert_allclose(video, stream_graphs.decode(Z), rtol=0, atol=1e-5)


def test_mp4_holds_every_frame(served):
    status, answer, headers = ask(served, "POST", f"{PATH}?fps=8", npy(Z), {"Accept": "video/mp4"})
    assert status == 200
    assert headers["content-type"] == "video/mp4"
    assert "content-length" not in headers  # sent as it is made
    with av.open(io.BytesIO(answer)) as container:
        assert container.streams.video[0].average_rate == 8
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert frames[0].shape == (4, 6, 3)  # the odd width is padded
    expected = to_uint8(stream_graphs.decode(Z)[0].astype(np.float32))
    # Colour at half the resolution on random pixels: the brightness is what survives.
    for got, wanted in zip(frames, expected, strict=True):
        difference = got[:, :5].astype(float).mean() - wanted.astype(float).mean()
        assert abs(difference) < 12


def test_png_is_one_frame_exactly(served):
    expected = to_uint8(stream_graphs.decode(Z)[0].astype(np.float32))
    for frame in (0, 4):
        status, answer, headers = ask(
            served, "POST", f"{PATH}?frame={frame}", npy(Z), {"Accept": "image/png"}
        )
        assert (status, headers["content-type"]) == (200, "image/png")
        got = np.asarray(Image.open(io.BytesIO(answer))).astype(int)
        assert abs(got - expected[frame]).max() <= 1  # fp32 against float64 at a rounding edge


@pytest.mark.parametrize(
    ("path", "sent", "accept", "status", "complaint"),
    [
        (PATH, b"no npy", "*/*", 400, "not a .npy file"),
        (PATH, npy(Z)[:-1], "*/*", 400, "has 3199 bytes"),
        (PATH, npy(Z) + b"!", "*/*", 400, "bytes"),
        (PATH, npy(Z.astype(np.float64)), "*/*", 400, "the latent is float64"),
        (PATH, npy(Z.astype(">f4")), "*/*", 400, "the latent is >f4"),
        (PATH, npy(np.array([{}], object)), "*/*", 400, "the latent is object"),
        (PATH, npy(Z[0]), "*/*", 400, "of shape"),
        (PATH, npy(np.full_like(Z, np.nan)), "*/*", 400, "not finite"),
        (PATH, npy(Z), "text/html", 406, "video/mp4"),
        (f"{PATH}?fps=0", npy(Z), "*/*", 400, "fps is '0'"),
        (f"{PATH}?fps=fast", npy(Z), "*/*", 400, "fps is 'fast'"),
        (f"{PATH}?frame=5", npy(Z), "image/png", 400, "the video has 5"),
        (f"{PATH}?frame=-1", npy(Z), "image/png", 400, "frame is '-1'"),
        ("/v2/models/types/decode", npy(Z), "*/*", 400, "no decoder"),
        ("/v2/models/nobody/decode", npy(Z), "*/*", 404, "nobody"),
    ],
)
def test_what_is_refused(served, path, sent, accept, status, complaint):
    got, answer, _ = ask(served, "POST", path, sent, {"Accept": accept})
    assert got == status
    assert complaint in json.loads(answer)["error"]
