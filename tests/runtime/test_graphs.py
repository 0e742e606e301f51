import numpy as np
import onnx
import pytest

from converter.errors import UserError
from converter.runtime.graphs import ClipGraph, open_graphs
from converter.session import PLAIN
from tests import stream_graphs


def test_a_stream_in_figures(tmp_path):
    graphs = open_graphs(stream_graphs.write(tmp_path / "a.json", 3), "cpu", None)
    assert graphs.chunk == 3
    assert graphs.latent == (1, 8, None, 4, 5)
    assert graphs.dtype == graphs.video_dtype == np.float32
    dynamic = stream_graphs.write(tmp_path / "b.json", dynamic=True)
    assert open_graphs(dynamic, "cpu", None).latent == (1, 8, None, None, None)


def test_frames_of_a_stream(tmp_path):
    graphs = open_graphs(stream_graphs.write(tmp_path / "a.json"), "cpu", None)
    graphs.spec = graphs.spec.__class__(**vars(graphs.spec) | {"time": 4})
    assert [graphs.frames(0, 1), graphs.frames(0, 3), graphs.frames(3, 2)] == [1, 9, 8]


@pytest.mark.parametrize(
    ("inputs", "outputs", "complaint"),
    [
        (["x"], ["y", "z"], "has 1 inputs and 2 outputs; a decoder has a latent and a video"),
        (["x", "w"], ["y"], "has 2 inputs and 1 outputs"),
    ],
)
def test_a_graph_of_other_inputs_and_outputs(tmp_path, inputs, outputs, complaint):
    nodes = [onnx.helper.make_node("Sum", inputs, [name]) for name in outputs]
    with pytest.raises(UserError, match=complaint):
        ClipGraph(save(tmp_path, nodes, inputs, outputs), "cpu", None)


@pytest.mark.parametrize(
    ("dims", "kind", "complaint"),
    [
        ([1, 3, 4, 4], onnx.TensorProto.FLOAT, "not of rank 5"),
        ([1, 3, 2, 4, 4], onnx.TensorProto.INT64, r"x is tensor\(int64\)"),
    ],
)
def test_a_graph_of_something_else(tmp_path, dims, kind, complaint):
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(UserError, match=complaint):
        ClipGraph(save(tmp_path, [node], ["x"], ["y"], dims, kind), "cpu", PLAIN)


def save(folder, nodes, inputs, outputs, dims=(1, 3, 2, 4, 4), kind=onnx.TensorProto.FLOAT):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info(name, kind, dims) for name in inputs],
        [info(name, kind, dims) for name in outputs],
    )
    path = folder / "g.onnx"
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path
