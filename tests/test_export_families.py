"""Every family's graph, on small seeded decoders: as exported and as converted, by onnxruntime."""

import numpy as np
import onnx
import pytest
import torch

from converter import convert
from converter.session import CPU_ID, Session
from models.source import FAMILIES, open_source
from tests.conftest import LATENT
from tests.small_decoders import latent

TOLERANCE = 1e-5
"""fp32 in another order of summation, as in tests/models/test_families.py."""

CONVERTED = 2e-5
"""The same once more, with Winograd's larger rounding."""

NAMES = [family.name for family in FAMILIES]
UNSEEN = [(1, 3, 5), (2, 5, 4), (5, 2, 3)]
"""T, H, W."""


def error(path, decoder, z):
    """Largest difference between a graph's video and upstream's."""
    with torch.inference_mode():
        expected = decoder.reference(z).numpy()
    video = Session(str(path), "cpu", CPU_ID).run({"latent": z.numpy()})["video"]
    assert video.shape == expected.shape
    assert expected.std() > 0.05
    return np.abs(video - expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_and_its_conversion_equal_upstream(small_source, small_clip, tmp_path, name):
    path, z = small_clip(name), latent(*LATENT)
    decoder = open_source(str(small_source(name)), 0).decoder
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert error(path, decoder, z) < TOLERANCE
    result = convert(path, tmp_path / "converted.onnx", validate=False)
    assert result.conv3d_left == 0
    assert error(tmp_path / "converted.onnx", decoder, z) < CONVERTED


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_dynamic_graph_equals_upstream_at_other_sizes(small_source, small_clip, tmp_path, name):
    path = small_clip(name, dynamic=True)
    decoder = open_source(str(small_source(name)), 0).decoder
    assert convert(path, tmp_path / "converted.onnx", validate=False).conv3d_left == 0
    for sizes in UNSEEN:
        z = latent(1, 4, *sizes)
        assert error(path, decoder, z) < TOLERANCE
        assert error(tmp_path / "converted.onnx", decoder, z) < CONVERTED
