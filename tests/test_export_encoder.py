"""Encoders as graphs: what is exported, what it says of itself, and who takes it."""

import itertools
import json

import numpy as np
import onnx
import pytest
import torch

from converter import convert, origin
from converter import export as module
from converter.errors import UserError
from converter.export import export
from converter.origin import GraphOptions
from converter.runtime import Decoder, DiffusersVAE
from converter.session import CPU_ID, Session
from models.encoders.wan import WanEncoder
from tests.small_decoders import WAN_2_1, latent, wan

MEAN, STD = [0.5, -1.0, 2.0, 0.25], [2.0, 3.0, 0.25, 1.5]
CONFIG = WAN_2_1 | {"num_res_blocks": 1, "latents_mean": MEAN, "latents_std": STD}
VIDEO = (1, 3, 9, 20, 16)
ENCODER = GraphOptions(encoder=True)

# fp32 in another order of summation: measured 4e-7.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def vae():
    return wan(CONFIG)


@pytest.fixture(scope="module")
def source(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    vae.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def static(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("static") / "o.onnx"
    return export(source, out, video=VIDEO, options=ENCODER)


@pytest.fixture(scope="module")
def dynamic(source, tmp_path_factory):
    """All that a graph can do besides."""
    out = tmp_path_factory.mktemp("dynamic") / "o.onnx"
    options = GraphOptions(encoder=True, denormalize=True, uint8=True, weights="float16")
    return export(source, out, video=VIDEO, options=options, dynamic=True)


def run(path, x):
    return Session(str(path), "cpu", CPU_ID).run({"video": x})["latent"]


def encode(vae, x):
    """Upstream's own encode."""
    with torch.inference_mode():
        return vae.encode(x).latent_dist.mean.numpy()


def dims(info):
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as error:
        export(*args, **kwargs)
    return str(error.value)


def test_the_graph_equals_upstream(static, vae, tmp_path):
    assert convert(static.output, tmp_path / "c.onnx").conv3d_left == 0
    x = latent(*VIDEO, seed=7).clamp(-1, 1)
    expected = encode(vae, x)
    assert expected.std() > 0.1
    for path, factor in ((static.output, 1), (tmp_path / "c.onnx", 2)):
        np.testing.assert_allclose(run(path, x.numpy()), expected, rtol=0, atol=factor * TOLERANCE)


def test_the_result_says_what_was_made(static):
    assert static.written
    assert static.encoder
    assert (static.video, static.latent) == (VIDEO, (1, 4, 3, 5, 4))
    assert static.checked == (VIDEO,)
    assert static.sentence().startswith("equal to upstream's encode: max abs ")
    assert static.sentence().endswith(", at 1 video shape")
    assert static.to_json()["encoder"]
    proto = onnx.load(static.output)
    onnx.checker.check_model(proto, full_check=True)
    assert dims(proto.graph.input[0]) == list(VIDEO)
    assert dims(proto.graph.output[0]) == [1, 4, 3, 5, 4]


def test_the_graph_does_not_grow_with_the_clip(static, source, tmp_path):
    longer = (1, 3, 17, 20, 16)
    made = export(source, tmp_path / "o.onnx", video=longer, options=ENCODER, check=False)
    assert made.graph.nodes == static.graph.nodes


def expected_latents(vae, pixels):
    """By the formulas of diffusers' video processor and of Wan's pipeline."""
    rounded = wan(CONFIG)
    rounded.load_state_dict({n: w.half().float() for n, w in vae.state_dict().items()})
    images = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3) / 255
    latents = torch.from_numpy(encode(rounded, 2.0 * images - 1.0))
    mean = torch.tensor(MEAN).view(1, 4, 1, 1, 1)
    inverse_std = 1.0 / torch.tensor(STD).view(1, 4, 1, 1, 1)
    return ((latents - mean) * inverse_std).numpy()


@pytest.mark.parametrize("shape", [(1, 1, 4, 8, 3), (1, 5, 12, 4, 3), (1, 13, 8, 20, 3)])
def test_pixels_become_latents_of_the_pipeline_at_other_sizes(dynamic, vae, tmp_path, shape):
    assert dynamic.written
    converted = tmp_path / "c.onnx"
    assert convert(dynamic.output, converted, validate=False).conv3d_left == 0
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    expected = expected_latents(vae, pixels)
    for path in (dynamic.output, converted):
        # The least std is 0.25, which makes an error four times as large.
        np.testing.assert_allclose(run(path, pixels), expected, rtol=0, atol=8 * TOLERANCE)


def test_a_dynamic_graph_names_its_sizes_by_the_latents(dynamic):
    proto = onnx.load(dynamic.output)
    assert dims(proto.graph.input[0]) == [1, "4*T - 3", "4*H", "4*W", 3]
    assert dynamic.video == (1, 9, 20, 16, 3)
    assert dynamic.checked == (VIDEO, (1, 3, 1, 12, 20), (1, 3, 17, 20, 16))


def test_the_origin_says_that_it_encodes_and_a_conversion_keeps_that(static, dynamic, tmp_path):
    convert(static.output, tmp_path / "c.onnx", validate=False)
    for path in (static.output, tmp_path / "c.onnx"):
        made = origin.of_metadata(onnx.load(path).metadata_props, "")
        assert made.graph == ENCODER
    made = origin.of_metadata(onnx.load(dynamic.output).metadata_props, "")
    assert (made.graph.denormalize, made.graph.uint8, made.graph.encoder) == (True, True, True)


@pytest.mark.parametrize("opened", [Decoder, DiffusersVAE])
def test_what_decodes_takes_no_encoder(static, dynamic, opened):
    for result in (static, dynamic):
        with pytest.raises(UserError, match="encodes: it makes latents of videos"):
            opened(result.output, "cpu")


def test_a_difference_leaves_nothing_behind(source, tmp_path, monkeypatch):
    shifts = itertools.cycle([3e-5])
    original = WanEncoder.reference
    monkeypatch.setattr(WanEncoder, "reference", lambda self, x: original(self, x) + next(shifts))
    result = export(source, tmp_path / "o.onnx", video=(1, 3, 1, 8, 8), options=ENCODER)
    assert not result.written
    assert result.sentence().startswith("different from upstream's encode: max abs 3.")
    assert not list(tmp_path.iterdir())


def test_by_default_the_video_is_what_the_default_latent_decodes_to(source, monkeypatch, tmp_path):
    def trace(module, example, *rest):
        raise UserError(str(tuple(example.shape)))

    monkeypatch.setattr(module, "trace", trace)
    assert refusal(source, tmp_path / "o.onnx", options=ENCODER) == "(1, 3, 9, 64, 64)"


def test_a_shape_that_does_not_fit(source, tmp_path):
    out = tmp_path / "o.onnx"
    sentence = refusal(source, out, video=(1, 3, 9, 21, 16), options=ENCODER)
    assert sentence == (
        "the video 1x3x9x21x16 (NxCxTxHxW) does not fit: H is 21, but must be a multiple of 4."
    )
    assert "takes a video" in refusal(source, out, latent=(1, 4, 3, 5, 4), options=ENCODER)
    assert "takes a latent" in refusal(source, out, video=VIDEO)
    assert not list(tmp_path.iterdir())


def test_nothing_to_normalize(small_source, tmp_path):
    config = json.loads((small_source("CogVideoX") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"scaling_factor": 1.0}))
    options = GraphOptions(encoder=True, denormalize=True)
    sentence = refusal(str(tmp_path), tmp_path / "o.onnx", seed=0, options=options)
    assert sentence.endswith("by this config: leave out --normalize.")


@pytest.mark.published
def test_wan_2_1_at_its_published_size(tmp_path):
    out = tmp_path / "o.onnx"
    video = (1, 3, 9, 64, 64)
    result = export("wan2.1", out, seed=0, video=video, options=ENCODER, dynamic=True)
    assert result.written
    assert (result.latent, result.graph.conv3d) == ((1, 16, 3, 8, 8), 27)
    converted = convert(out, tmp_path / "c.onnx", shapes={"video": video})
    assert converted.written
    assert converted.conv3d_left == 0
