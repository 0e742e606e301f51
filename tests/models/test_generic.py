"""Classes of diffusers that no file beside models/generic.py knows."""

import json

import pytest
import torch

from converter import convert
from converter.errors import UserError
from converter.export import export
from converter.origin import GraphOptions
from models.source import open_source
from tests.small_decoders import latent

MAGVIT = {
    "_class_name": "AutoencoderKLMagvit",
    "latent_channels": 4,
    "block_out_channels": [4, 8],
    "down_block_types": ["SpatialDownBlock3D", "SpatialTemporalDownBlock3D"],
    "up_block_types": ["SpatialUpBlock3D", "SpatialTemporalUpBlock3D"],
    "layers_per_block": 1,
    "norm_num_groups": 2,
}


@pytest.fixture
def folder(tmp_path):
    def write(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return write


def test_another_video_autoencoder_is_exported_as_it_is(folder, tmp_path):
    source = folder(MAGVIT)
    decoder = open_source(source, 0).decoder
    frames = decoder._vae.decode(latent(1, 4, 4, 3, 2), return_dict=False)[0].shape[2]
    assert decoder.geometry.video_shape((1, 4, 4, 3, 2))[2] == frames
    result = export(source, tmp_path / "o.onnx", seed=0, latent=(1, 4, 2, 3, 2))
    assert result.written
    assert result.graph.conv3d > 5


def test_so_is_its_encoder(folder, tmp_path):
    source, encoder = folder(MAGVIT), GraphOptions(encoder=True)
    ours = open_source(source, 0).adapted(encoder).encoder
    video = latent(1, 3, 3, 6, 4)
    expected = ours._vae.encode(video).latent_dist.mean
    assert tuple(expected.shape) == ours.latent_shape((1, 3, 3, 6, 4))
    assert torch.equal(ours.reference(video), expected)
    result = export(source, tmp_path / "o.onnx", seed=0, video=(1, 3, 3, 6, 4), options=encoder)
    assert result.written
    assert convert(tmp_path / "o.onnx", tmp_path / "c.onnx").conv3d_left == 0


@pytest.mark.parametrize("options", [GraphOptions(), GraphOptions(encoder=True)])
def test_it_promises_no_other_sizes(folder, tmp_path, options):
    with pytest.raises(UserError, match="for one size: leave out --dynamic"):
        export(folder(MAGVIT), tmp_path / "o.onnx", seed=0, dynamic=True, options=options)


@pytest.mark.parametrize(
    "name", ["UNet2DModel", "Nothing", "__name__", "AutoPipelineForText2Image"]
)
def test_what_is_no_autoencoder(folder, name):
    with pytest.raises(UserError, match=f"of class {name}, which is no autoencoder of diffusers"):
        open_source(folder({"_class_name": name}), 0)


def test_an_autoencoder_of_images(folder):
    config = {"_class_name": "AutoencoderKL", "block_out_channels": [32], "norm_num_groups": 8}
    with pytest.raises(UserError, match=r"does not decode a latent .* no video decoder"):
        open_source(folder(config), 0)
