import numpy as np
import onnx
import pytest
import torch
from torch import nn

from converter.errors import UserError
from converter.export_graph import trace
from converter.session import CPU_ID, Session
from models.base import Sizes


class Branches(nn.Module):
    """Two uses of one convolution, an operator with two outputs, weights large and small."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 3, padding=1)
        self.conv.weight.requires_grad_(False).copy_(torch.linspace(-1, 1, 432).view(4, 4, 3, 3, 3))

    def forward(self, x):
        left, right = self.conv(self.conv(x)).chunk(2, dim=1)
        return left * right


@pytest.fixture(scope="module")
def model():
    sizes = {2: Sizes("T"), 4: Sizes("W")}
    return trace(Branches(), torch.zeros(1, 4, 2, 3, 5), sizes, 18)


def run(model, tmp_path, x):
    path = tmp_path / "model.onnx"
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if model.weights.holds(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(model.weights.array(tensor), tensor.name))
    onnx.save(proto, path)
    return Session(str(path), "cpu", CPU_ID).run({"latent": x.numpy()})["video"]


def test_nodes_and_tensors_are_named_after_their_module(model):
    names = [node.name for node in model.proto.graph.node]
    assert names == ["conv/Conv", "conv/Conv_1", "Split", "Mul"]
    made = [list(node.output) for node in model.proto.graph.node]
    assert made == [["conv/Conv"], ["conv/Conv_1"], ["Split", "Split_out"], ["video"]]
    assert [tensor.name for tensor in model.proto.graph.initializer] == ["conv.weight", "conv.bias"]


def test_dynamic_axes_have_names_and_the_others_sizes(model):
    (graph_input,), (output,) = model.proto.graph.input, model.proto.graph.output
    assert graph_input.name == "latent"
    assert dims(graph_input) == [1, 4, "T", 3, "W"]
    assert dims(output) == [1, 2, "T", 3, "W"]


def dims(info):
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]


def test_bulky_weights_stay_out_of_the_protobuf_and_small_ones_in_it(model):
    weight, bias = model.proto.graph.initializer
    assert model.weights.holds(weight)
    assert not model.weights.holds(bias)
    expected = np.linspace(-1, 1, 432, dtype=np.float32).reshape(4, 4, 3, 3, 3)
    np.testing.assert_allclose(model.weights.array(weight), expected, atol=1e-6)


def test_the_exporters_notes_are_dropped(model):
    assert b"File" not in model.proto.SerializeToString()
    assert not model.proto.metadata_props
    assert not any(node.metadata_props for node in model.proto.graph.node)


def test_the_graph_computes_what_the_module_does(model, tmp_path):
    x = torch.linspace(-1, 1, 4 * 5 * 3 * 2).view(1, 4, 5, 3, 2)
    expected = Branches()
    bias = model.proto.graph.initializer[1]
    expected.conv.bias.data = torch.tensor(onnx.numpy_helper.to_array(bias))
    # Sums of 108 products of up to 16: a few fp32 roundings of 1e2.
    np.testing.assert_allclose(run(model, tmp_path, x), expected(x).detach(), rtol=1e-5, atol=1e-3)


def test_a_newer_opset():
    newer = trace(nn.ReLU(), torch.zeros(1, 2), {}, 21).proto
    assert [(opset.domain, opset.version) for opset in newer.opset_import] == [("", 21)]


def test_an_opset_that_pytorch_does_not_make():
    with pytest.raises(UserError, match=r"makes opset \d+, not 99"):
        trace(nn.ReLU(), torch.zeros(1, 2), {}, 99)
