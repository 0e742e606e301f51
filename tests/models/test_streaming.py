"""Every stream form, run by PyTorch: chunk by chunk it equals upstream's decode of the clip."""

import pytest
import torch

from converter.errors import UserError
from models.base import Decoder
from models.source import FAMILIES, open_source
from tests.small_decoders import latent

TOLERANCE = 1e-5
STREAMS = {"Qwen-Image": (1, 5, 9), "CogVideoX": (3, 5, 9), "Mochi": (1, 5, 9)}
"""T of the clips. Wan's stream has tests in test_wan.py."""

CASES = [
    pytest.param(name, chunk, id=f"{name}-{chunk}")
    for name in STREAMS
    for chunk in (1, 2, 4)
    if (name, chunk) != ("CogVideoX", 1)
]


def opened(small_source, name):
    return open_source(str(small_source(name)), 0).decoder


def run(decoder, chunk, z):
    """The video, from full chunks only: a last one is filled up by repeating the last frame."""
    stream = decoder.stream(chunk)
    videos, caches, start = [], None, 0
    while start < z.shape[2]:
        size = chunk + (0 if start else stream.lead)
        part = z[:, :, start : start + size]
        filled = torch.cat([part, part[:, :, -1:].expand(-1, -1, size - part.shape[2], -1, -1)], 2)
        module = stream.next if start else stream.first
        video, caches = module(filled, caches) if start else module(filled)
        for cache, entry in zip(caches, stream.caches, strict=True):
            sizes = (entry.channels, entry.frames, z.shape[3] * entry.scale)
            assert cache.shape[1:4] == sizes
        time = decoder.geometry.time
        frames = part.shape[2] * time - (0 if start else time - 1)
        videos.append(video[:, :, :frames])
        start += size
    return torch.cat(videos, dim=2)


@pytest.mark.parametrize(("name", "chunk"), CASES)
def test_chunks_equal_the_whole_clip(small_source, name, chunk):
    decoder = opened(small_source, name)
    for frames in STREAMS[name]:
        z = latent(1, 4, frames, 3, 2)
        with torch.inference_mode():
            expected = decoder.reference(z)
            video = run(decoder, chunk, z)
        assert expected.std(dim=(0, 1, 3, 4)).min() > 0.05
        torch.testing.assert_close(video, expected, rtol=0, atol=TOLERANCE)


def test_which_families_have_a_stream():
    with_stream = {f.name for f in FAMILIES if f.wrap.stream is not Decoder.stream}
    assert with_stream == {*STREAMS, "Wan"}


def test_a_chunk_that_parts_what_cogvideox_takes_together(small_source):
    with pytest.raises(UserError, match="a chunk of 3 cannot be: CogVideoX takes the statistics"):
        opened(small_source, "CogVideoX").stream(3)
