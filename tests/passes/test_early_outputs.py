"""Outputs as early as they can be: the order in the file, and the order onnxruntime makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.passes.early_outputs import make_outputs_early
from converter.session import onnxruntime
from converter.surgeon import close_model, open_model

NAMES = ("late", "middle", "early")


def chain() -> onnx.ModelProto:
    """x -> three layers -> video, and cuts of each layer's input, the last layer's last."""
    nodes = [helper.make_node("Softmax", [f"x{i}"], [f"x{i + 1}"], f"layer{i}") for i in range(3)]
    nodes.append(helper.make_node("Softmax", ["x3"], ["video"], "video"))
    nodes += [
        helper.make_node("Slice", [f"x{i}", "zero", "one"], [name], name)
        for i, name in zip((0, 1, 2), reversed(NAMES), strict=True)
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 3]) for n in ("video", *NAMES)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [4, 3])],
        ends,
        [numpy_helper.from_array(np.array([i]), n) for i, n in enumerate(("zero", "one"))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def moved(proto: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    surgery = open_model(copy)
    count = make_outputs_early(surgery)
    close_model(surgery)
    onnx.checker.check_model(copy)
    return count, copy


def executed(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """The names of the nodes in the order in which onnxruntime runs them."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x0": np.ones((4, 3), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [e for e in events if e["name"].endswith("_kernel_time")]
    return [e["name"].removesuffix("_kernel_time") for e in sorted(runs, key=lambda e: e["ts"])]


def test_what_needs_the_most_nodes_comes_first_among_those_that_end_the_graph() -> None:
    count, changed = moved(chain())
    assert count == 4
    assert [n.name for n in changed.graph.node] == [
        *("layer0", "layer1", "layer2"),
        *("video", "late", "middle", "early"),
    ]
    assert [o.name for o in changed.graph.output] == ["video", *NAMES]


def test_onnxruntime_makes_each_output_before_the_next_layer(tmp_path: Path) -> None:
    """The claim on which the pass rests; without it this order is another."""
    wanted = ["early", "layer0", "middle", "layer1", "late", "layer2", "video"]
    assert executed(chain(), tmp_path) != wanted
    assert executed(moved(chain())[1], tmp_path) == wanted


def test_a_node_that_only_a_nested_graph_reads_is_no_end() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["late"], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, [None, 3])],
    )
    proto = chain()
    del proto.graph.output[1:]
    proto.graph.output[0].name = "chosen"
    proto.graph.node.append(
        helper.make_node("If", ["true"], ["chosen"], "if", then_branch=branch, else_branch=branch)
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    _, changed = moved(proto)
    names = [n.name for n in changed.graph.node]
    assert names.index("late") < names.index("if")
    assert "layer1" in names[: names.index("late")]
