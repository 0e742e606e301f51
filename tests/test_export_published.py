"""Every preset at its published size, on the smallest latent that all take, with seeded weights.

By `pytest -m published tests/test_export_published.py`: up to 16 GB of memory, minutes in all.
"""

import onnx
import pytest
import torch
from torch import nn

from converter import convert
from converter.export import export
from models.source import FAMILIES

PRESETS = {preset: family for family in FAMILIES for preset in family.presets}
FRAMES, SIZE = 3, 2

pytestmark = pytest.mark.published


def on_meta(preset):
    """The decoder without memory for weights."""
    family = PRESETS[preset]
    with torch.device("meta"):
        return family.wrap(family.upstream(**family.presets[preset]))


def convs_of_rank_5(path):
    graph = onnx.load(path, load_external_data=False).graph
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    return sum(ranks[node.input[1]] == 5 for node in graph.node if node.op_type == "Conv")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_published_decoder_is_exported_and_converted(preset, tmp_path):
    decoder = on_meta(preset)
    clip = decoder.clip(dynamic=False)
    latent = (1, decoder.geometry.channels, FRAMES, SIZE, SIZE)
    made = export(preset, tmp_path / "o.onnx", seed=0, latent=latent)
    assert made.written
    assert made.max_abs_error <= made.tolerance < 1e-4
    assert made.video == decoder.geometry.video_shape(latent)
    conv3d = sum(isinstance(part, nn.Conv3d) for part in clip.modules())
    assert made.graph.conv3d == conv3d == convs_of_rank_5(tmp_path / "o.onnx")
    weights = sum(weight.numel() for weight in clip.parameters())
    assert made.graph.parameters == pytest.approx(weights, rel=1e-4)  # and some constants

    result = convert(tmp_path / "o.onnx", tmp_path / "c.onnx", shapes={"latent": latent})
    assert result.written
    assert result.conv3d_left == 0
    assert {output.max_abs < 1e-4 for output in result.validation.outputs} == {True}


def test_the_graph_of_wan_2_1_does_not_grow_with_the_clip(tmp_path):
    made = [
        export("wan2.1", tmp_path / f"{t}.onnx", seed=0, latent=(1, 16, t, 2, 2), check=False)
        for t in (3, 9, 21)
    ]
    assert [result.video[2] for result in made] == [9, 33, 81]
    assert made[0].graph.nodes == made[1].graph.nodes == made[2].graph.nodes
