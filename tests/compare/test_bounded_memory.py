"""Outputs larger than what is in memory at any time, through the whole of a comparison."""

import tracemalloc

import numpy as np
import pytest

from converter.compare import stored_array
from converter.compare.diff import DiffRequest, diff
from converter.compare.metrics import SLICE

pytest.importorskip("skimage.metrics")
pytest.importorskip("PIL.Image")
pytest.importorskip("av")

FRAME = (96, 240)
ELEMENTS = 3 * 96 * 240


def saved(folder, frames):
    """Two videos, the second in half precision and compressed."""
    random = np.random.default_rng(3)
    video = random.random((1, 3, frames, *FRAME), np.float32) * 2 - 1
    np.savez(folder / "a.npz", video=video)
    np.savez_compressed(folder / "b.npz", video=(video * 0.999).astype(np.float16))
    return folder / "a.npz", folder / "b.npz"


def test_no_part_is_larger_than_a_slice_or_a_frame(tmp_path, monkeypatch):
    one, two = saved(tmp_path, 10)
    sizes = []
    whole = stored_array.StoredArray.__getitem__

    def seen(self, index):
        part = whole(self, index)
        sizes.append(part.size)
        return part

    monkeypatch.setattr(stored_array.StoredArray, "__getitem__", seen)
    request = DiffRequest(pictures=True, video=tmp_path / "out.mp4")
    found = diff(one, (two,), request).candidates[0]
    assert max(sizes) == max(SLICE, ELEMENTS) == ELEMENTS
    assert sum(sizes) > 10 * 10 * ELEMENTS  # each of both sides many times over
    assert len(found.outputs[0].detail.frames.frames) == 10
    assert found.pictures


def test_memory_does_not_grow_with_the_outputs(tmp_path):
    one, two = saved(tmp_path, 80)
    diff(one, (two,), DiffRequest(frames=False))  # what is imported once, is imported now
    tracemalloc.start()
    try:
        diff(one, (two,), DiffRequest(frames=False))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6 < 4 * 80 * ELEMENTS
