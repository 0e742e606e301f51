import numpy as np
import pytest

from converter.errors import UserError
from converter.runtime.stream import StreamDecoder
from tests import stream_graphs

# fp32 sums of 216 products of size 1 against float64.
TOLERANCE = 1e-5


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7])
def test_any_number_of_frames_equals_the_whole_clip(tmp_path, chunk, frames):
    decoder = StreamDecoder(stream_graphs.write(tmp_path / "a.json", chunk), "cpu")
    z = stream_graphs.latent(frames)
    expected = stream_graphs.decode(z)
    chunks = list(decoder.stream(z))
    assert [c.shape[2] for c in chunks] == [
        min(chunk, frames - start) for start in range(0, frames, chunk)
    ]
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.concatenate(chunks, 2), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(decoder.decode(z), np.concatenate(chunks, 2))


def test_two_clips_at_once_and_one_after_the_other_stay_apart(tmp_path):
    decoder = StreamDecoder(stream_graphs.write(tmp_path / "a.json", 1), "cpu")
    clips = stream_graphs.latent(3), stream_graphs.latent(4)[:, :, 1:]
    mixed = list(zip(*(decoder.stream(z) for z in clips), strict=True))
    for number, z in enumerate(clips):
        video = np.concatenate([chunks[number] for chunks in mixed], 2)
        np.testing.assert_allclose(video, stream_graphs.decode(z), rtol=0, atol=TOLERANCE)
        np.testing.assert_array_equal(decoder.decode(z), video)


def test_chunks_are_made_when_they_are_asked_for(tmp_path, monkeypatch):
    decoder = StreamDecoder(stream_graphs.write(tmp_path / "a.json", 1), "cpu")
    runs = []
    run = type(decoder._next).run_values
    monkeypatch.setattr(
        type(decoder._next), "run_values", lambda self, feed: runs.append(1) or run(self, feed)
    )
    chunks = decoder.stream(stream_graphs.latent(3))
    assert len(runs) == 0
    next(chunks)
    assert len(runs) == 1


def test_any_size_where_the_manifest_says_so(tmp_path):
    decoder = StreamDecoder(stream_graphs.write(tmp_path / "a.json", dynamic=True), "cpu")
    for z in (stream_graphs.latent(3, 2, 7), stream_graphs.latent(3, 6, 3)):
        expected = stream_graphs.decode(z)
        np.testing.assert_allclose(decoder.decode(z), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("z", "complaint"),
    [
        (np.zeros((1, 8, 3, 4), np.float32), r"not of shape \(1, 8, 3, 4\)"),
        (np.zeros((1, 8, 0, 4, 5), np.float32), r"not of shape \(1, 8, 0, 4, 5\)"),
        (np.zeros((1, 8, 3, 4, 5)), "the latent is float64; this decoder takes float32"),
        (np.zeros((2, 8, 3, 4, 5), np.float32), "2 on N, but this decoder was made for 1"),
        (np.zeros((1, 4, 3, 4, 5), np.float32), "4 on C, but this decoder was made for 8"),
        (np.zeros((1, 8, 3, 5, 5), np.float32), "5 on H, but this decoder was made for 4"),
        (np.zeros((1, 8, 3, 4, 4), np.float32), "4 on W, but this decoder was made for 5"),
    ],
)
def test_a_latent_that_does_not_fit_is_refused_at_once(tmp_path, z, complaint):
    decoder = StreamDecoder(stream_graphs.write(tmp_path / "a.json"), "cpu")
    with pytest.raises(UserError, match=complaint):
        decoder.stream(z)


def test_an_unknown_provider(tmp_path):
    with pytest.raises(UserError, match="unknown provider 'gpu'"):
        StreamDecoder(stream_graphs.write(tmp_path / "a.json"), "gpu")
