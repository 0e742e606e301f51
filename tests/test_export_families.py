"""Every family's graph, on small seeded decoders: as exported and as converted, by onnxruntime."""

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKLQwenImage

from converter import convert, convert_stream
from converter.convert import Options
from converter.errors import UserError
from converter.export_check import check
from converter.export_stream import export_stream
from converter.runtime import Decoder
from converter.session import CPU_ID, Session
from models.source import FAMILIES, open_source
from tests.conftest import LATENT
from tests.small_decoders import latent
from tests.small_families import QWEN_IMAGE

NAMES = [family.name for family in FAMILIES]
UNSEEN = [(1, 4, 1, 3, 5), (1, 4, 2, 5, 4), (1, 4, 5, 2, 3)]


def assert_equal_to_upstream(opened, path, converted, shapes):
    """The graph within the tolerance of an export, its conversion within twice that."""
    for file, factor in ((path, 1), (converted, 2)):
        session = Session(str(file), "cpu", CPU_ID)
        made = check(opened, lambda z, s=session: s.run({"latent": z})["video"], shapes, None)
        assert made.max_abs_error <= factor * made.tolerance, file
        assert made.tolerance < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_and_its_conversion_equal_upstream(small_source, small_clip, tmp_path, name):
    path, converted = small_clip(name), tmp_path / "converted.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert convert(path, converted, validate=False).conv3d_left == 0
    assert_equal_to_upstream(open_source(str(small_source(name)), 0), path, converted, [LATENT])


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_graph_equals_upstream_at_other_sizes(small_source, small_clip, tmp_path, name):
    path, converted = small_clip(name, dynamic=True), tmp_path / "converted.onnx"
    assert convert(path, converted, validate=False).conv3d_left == 0
    assert_equal_to_upstream(open_source(str(small_source(name)), 0), path, converted, UNSEEN)


@pytest.mark.parametrize("name", [pytest.param("CogVideoX", marks=pytest.mark.long), "Mochi"])
def test_a_stream_and_its_conversion_equal_upstream(small_source, tmp_path, name):
    """Wan's and Qwen-Image's have tests of their own."""
    source = str(small_source(name))
    made = export_stream(source, tmp_path / "s.json", chunk=2, seed=0, latent=(1, 4, 2, 3, 2))
    assert made.written
    options = Options(validate=False)
    result = convert_stream.run(made.output, tmp_path / "c.json", options, lambda phase: None)
    assert [graph.conv3d_left for graph in result.graphs.values()] == [0, 0]
    opened = open_source(source, 0)
    for file in ("s.json", "c.json"):
        decoder = Decoder(tmp_path / file, "cpu")
        shapes = [(1, 4, frames, 3, 2) for frames in (3, 5, 9)]
        outcome = check(opened, decoder.decode, shapes, None)
        assert outcome.max_abs_error <= 2 * outcome.tolerance, file
    if name == "CogVideoX":
        with pytest.raises(UserError, match="has 4 on T, but this decoder takes 1 and a multiple"):
            decoder.decode(np.zeros((1, 4, 4, 3, 2), np.float32))


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_qwen_images_chunks_equal_its_own_decode(tmp_path, chunk):
    """Of diffusers' class as it is: the graphs are those of a Wan decoder with its weights."""
    torch.manual_seed(chunk)
    config = QWEN_IMAGE | {"dim_mult": [1, 2], "temperal_downsample": [True]}
    vae = AutoencoderKLQwenImage(**config).eval()
    vae.save_pretrained(tmp_path / "vae")
    made = export_stream(
        str(tmp_path), tmp_path / "s.json", chunk=chunk, latent=(1, 4, chunk, 3, 2), check=False
    )
    assert made.family == "Qwen-Image"
    z = latent(1, 4, 9, 3, 2)
    with torch.inference_mode():
        expected = vae.decode(z).sample.numpy()
    assert expected.shape == (1, 3, 17, 6, 4)
    assert expected.std() > 0.05
    video = Decoder(made.output, "cpu").decode(z.numpy())
    np.testing.assert_allclose(video, expected, rtol=0, atol=1e-5)
