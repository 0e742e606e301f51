"""Which tiles are taken; that tiles are right is for test_tiled.py."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from converter.errors import UserError
from converter.manifest import read
from converter.origin import Origin
from converter.runtime import choose_tiles
from converter.runtime.choose_tiles import chosen_tiles, fitting_tiles, look
from converter.runtime.tiles import Axis, Tiles
from tests import stream_graphs
from tests.runtime.test_decoder import clip

ATTRIBUTES = {
    "tile_sample_min_height": 64,
    "tile_sample_min_width": 96,
    "tile_sample_stride_height": 48,
    "tile_sample_stride_width": 64,
}
SIZES = {"channels": 8, "video_channels": 3, "time": 1, "space": 1, "least": 1}
ORIGIN = Origin("AutoencoderKLWan", "0", {}, ATTRIBUTES, frames="first alone", **SIZES)


@pytest.fixture
def source(tmp_path):
    found = look(stream_graphs.write(tmp_path / "a.json", dynamic=True))
    return replace(found, origin=ORIGIN)


def test_none_upstream_and_a_size(source):
    assert chosen_tiles(source, "none", None) is None
    assert chosen_tiles(source, "upstream", None) == Tiles(Axis(64, 48), Axis(96, 64), 1)
    assert chosen_tiles(source, "32x48", None) == Tiles(Axis(32, 24), Axis(48, 40), 1)
    assert chosen_tiles(source, "32X48", 4) == Tiles(Axis(32, 28), Axis(48, 44), 1)
    unknown = replace(source, origin=None)
    assert chosen_tiles(unknown, "32x48", 4) == Tiles(Axis(32, 28), Axis(48, 44), 1)


@pytest.mark.parametrize(
    ("asked", "overlap", "complaint"),
    [
        ("upstream", 3, "--overlap is for --tile HxW"),
        ("none", 3, "--overlap is for --tile HxW"),
        ("small", None, "--tile small is none of auto, none, upstream, and a size as 256x256"),
        ("32", None, "--tile 32 is none of"),
        ("32x48x2", None, "--tile 32x48x2 is none of"),
        ("32x48", 32, "tiles of 32x48 pixels cannot overlap by 32"),
        ("0x48", None, "tiles of 0x48 pixels cannot overlap by 0"),
    ],
)
def test_bad_usage(source, asked, overlap, complaint):
    with pytest.raises(UserError, match=complaint):
        chosen_tiles(source, asked, overlap)


def test_sizes_that_are_no_latent_pixels(source):
    eight = replace(source, spec=replace(source.spec, space=8))
    assert chosen_tiles(eight, "64x32", None) == Tiles(Axis(8, 7), Axis(4, 3), 8)
    for asked, overlap in (("60x32", None), ("64x36", None), ("64x32", 4)):
        with pytest.raises(UserError, match="must be multiples of 8 pixels"):
            chosen_tiles(eight, asked, overlap)


def test_a_decoder_that_does_not_say(source, tmp_path):
    with pytest.raises(UserError, match="does not say what it was made of; give --tile HxW"):
        chosen_tiles(replace(source, origin=None), "upstream", None)
    without = replace(source, origin=replace(ORIGIN, attributes={}))
    with pytest.raises(UserError, match="has no such tiles; give --tile HxW"):
        chosen_tiles(without, "upstream", None)
    with pytest.raises(UserError, match="does not say what it scales H and W by"):
        chosen_tiles(look(clip(tmp_path / "c.onnx")), "32x32", None)


def test_tiles_where_memory_is_short(source, monkeypatch):
    shape = (1, 8, 5, 200, 300)
    need = source.need(shape)
    monkeypatch.setattr(choose_tiles, "available_bytes", lambda: need)
    assert fitting_tiles(source, shape) is None
    monkeypatch.setattr(choose_tiles, "available_bytes", lambda: need - 1)
    tiles, why = fitting_tiles(source, shape)
    assert tiles == chosen_tiles(source, "upstream", None)
    assert "decoding in tiles of 64x96" in why
    assert source.need(shape, tiles) < need
    assert fitting_tiles(source, (1, 8, 5, 64, 96)) is None
    assert fitting_tiles(replace(source, origin=None), shape) is None
    monkeypatch.setattr(choose_tiles, "available_bytes", lambda: None)
    assert fitting_tiles(source, shape) is None


def test_smaller_tiles_where_upstreams_do_not_fit(source, monkeypatch):
    shape = (1, 8, 5, 200, 300)
    half = Tiles(Axis(32, 24), Axis(48, 32), 1)
    smallest = Tiles(Axis(8, 6), Axis(12, 8), 1)
    upstreams = chosen_tiles(source, "upstream", None)
    need = source.need(shape, upstreams)
    assert source.need(shape, half) < need < source.need(shape)
    for free, tiles in ((need, upstreams), (need - 1, half), (1, smallest)):
        monkeypatch.setattr(choose_tiles, "available_bytes", lambda free=free: free)
        assert fitting_tiles(source, shape)[0] == tiles


def test_tiles_need_a_run_of_one_of_them_and_the_caches_of_all(source):
    tiles = chosen_tiles(source, "upstream", None)
    of_one = source.need((1, 8, 5, 64, 96))
    # One every 48 and 64: of 64, 64, 64, 56 and 8 rows, and 96, 96, 96, 96 and 44 columns.
    pixels = (3 * 64 + 56 + 8) * (4 * 96 + 44)
    kept = 2 * 8 * 2 * pixels * 4  # two caches of eight channels and two frames in fp32
    assert source.need((1, 8, 5, 200, 300), tiles) == of_one + kept


def test_a_graph_of_one_size_is_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(choose_tiles, "available_bytes", lambda: 0)
    fixed = replace(look(stream_graphs.write(tmp_path / "a.json")), origin=ORIGIN)
    assert not fixed.any_size
    assert fitting_tiles(fixed, (1, 8, 5, 200, 300)) is None
    assert look(clip(tmp_path / "b.onnx")).any_size
    for size in ((4, 5), (4, "W"), ("H", 5)):
        assert not look(clip(tmp_path / "c.onnx", (1, 8, "T", *size))).any_size


def test_a_clip_graph_needs_more_for_more_frames(tmp_path):
    source = look(clip(tmp_path / "a.onnx", kind=TensorProto.FLOAT))
    few, many = (source.need((1, 8, t, 40, 40)) for t in (10, 100))
    # latent 8, slice 3, video 3 channels
    assert many - few == round(choose_tiles.OVERHEAD * 90 * 40 * 40 * 14 * 4)


MEASURE = """
import json, sys
import numpy as np
from converter import memory
from converter.runtime import Decoder
path, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
decoder = Decoder(path, "cpu")
z = np.zeros((1, 8, 6, height, width), np.float32)
memory.forget_peak()
before = memory.resident_bytes()
for frames in decoder.stream(z):
    pass
print(memory.peak_bytes() - before)
"""


def test_the_estimate_holds_against_the_measured_peak(tmp_path):
    """On the safe side: this graph has few small tensors, so that less is lost between them."""
    path = stream_graphs.write(tmp_path / "a.json", dynamic=True)
    source = look(path)
    size = (700, 900)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), *map(str, size)],
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout)
    estimate = source.need((1, 8, 6, *size))
    assert read(path).spec.latent[3:] == (None, None)
    assert measured > 1e8
    assert measured < estimate < 3 * measured
    assert np.isfinite(measured)
