"""What a graph does besides `decode`: scaling of latents, pixels, weights in half precision."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from converter import convert, manifest, origin
from converter.errors import UserError
from converter.export import export
from converter.export_stream import export_stream
from converter.origin import GraphOptions
from converter.runtime import Decoder
from converter.session import CPU_ID, Session
from tests.small_decoders import WAN_2_1, decode, latent, wan

MEAN, STD = [0.5, -1.0, 2.0, 0.25], [2.0, 3.0, 0.25, 1.5]
LATENT = (1, 4, 3, 3, 2)
ALL = GraphOptions(denormalize=True, uint8=True, weights="float16")


@pytest.fixture(scope="module")
def vae():
    return wan(WAN_2_1 | {"latents_mean": MEAN, "latents_std": STD})


@pytest.fixture(scope="module")
def source(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    vae.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("all") / "o.onnx"
    return export(source, out, latent=LATENT, options=ALL)


def expected_pixels(vae, z):
    """By the formulas of Wan's pipeline and of diffusers' video processor, in NumPy."""
    half = {n: w.half().float() for n, w in vae.state_dict().items()}
    rounded = wan(WAN_2_1)
    rounded.load_state_dict(half)
    scaled = z * torch.tensor(STD).view(1, 4, 1, 1, 1) + torch.tensor(MEAN).view(1, 4, 1, 1, 1)
    video = decode(rounded, scaled).numpy().astype(np.float64)
    return np.clip(video / 2 + 0.5, 0, 1) * 255


def run(path, z):
    return Session(str(path), "cpu", CPU_ID).run({"latent": z.numpy()})["video"]


def assert_pixels(pixels, levels):
    """The nearest level, but for a float's rounding error on the border between two."""
    assert pixels.dtype == np.uint8
    off = np.abs(pixels.transpose(0, 4, 1, 2, 3) - levels).max()
    assert off < 0.5 + 1e-3
    assert levels.std() > 5


def test_latents_of_the_pipeline_become_pixels(made, vae):
    assert made.written
    assert made.video == (1, 9, 12, 8, 3)
    z = latent(*LATENT, seed=3)
    assert_pixels(run(made.output, z), expected_pixels(vae, z))


def test_the_file_says_so(made):
    found = origin.of_metadata(onnx.load(made.output).metadata_props, "")
    assert found.graph == ALL
    assert (found.latents.mean, found.latents.std) == (MEAN, STD)


def test_weights_are_stored_in_half(made, vae):
    proto = onnx.load(made.output)
    stored = {t.name: t for t in proto.graph.initializer}
    halves = [name for name, t in stored.items() if t.data_type == TensorProto.FLOAT16]
    assert halves
    theirs = dict(vae.named_parameters())
    for name in halves:
        value = onnx.numpy_helper.to_array(stored[name])
        upstream = theirs[name.removeprefix("inner.")].detach().half().numpy()
        np.testing.assert_array_equal(value, upstream)
    convs = [n for n in proto.graph.node if n.op_type == "Conv"]
    assert sum(n.input[1].endswith(".float32") for n in convs) > len(convs) / 2
    assert made.graph.conv3d == 16


def test_its_conversion_makes_the_same_pixels(made, vae, tmp_path):
    result = convert(made.output, tmp_path / "c.onnx")
    assert result.written
    assert result.conv3d_left == 0
    z = latent(*LATENT, seed=4)
    assert_pixels(run(tmp_path / "c.onnx", z), expected_pixels(vae, z))


def test_a_stream_has_them_too(source, vae, tmp_path):
    shape = (1, 4, 2, 3, 2)
    made = export_stream(source, tmp_path / "s.json", chunk=2, latent=shape, options=ALL)
    assert made.written
    assert manifest.read(tmp_path / "s.json").spec.origin.graph == ALL
    z = latent(1, 4, 5, 3, 2)
    pixels = Decoder(tmp_path / "s.json", "cpu").decode(z.numpy(), uint8=True)
    assert_pixels(pixels, expected_pixels(vae, z))


def test_nothing_to_denormalize(tmp_path, small_source):
    folder = small_source("CogVideoX")
    config = json.loads((folder / "config.json").read_text()) | {"scaling_factor": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="latents of CogVideoX go into decode as they are"):
        export(str(tmp_path), tmp_path / "o.onnx", seed=0, options=GraphOptions(denormalize=True))


def test_a_weight_beyond_half_precision(vae, tmp_path):
    large = wan(WAN_2_1)
    with torch.no_grad():
        large.decoder.conv_in.weight[0, 0, 0, 0, 0] = 1e5
    large.save_pretrained(tmp_path)
    options = GraphOptions(weights="float16")
    with pytest.raises(UserError, match=r"decoder\.conv_in\.weight has values that float16"):
        export(str(tmp_path), tmp_path / "o.onnx", options=options)
