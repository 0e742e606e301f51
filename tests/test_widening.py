"""Graphs that are in half precision already, for targets with and without the kernels."""

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from converter import UserError, convert
from tests.execute import session
from tests.small_models import all_nodes, draw, model, save, value

torch = pytest.importorskip("torch")

BF16, FP16, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT
TORCH = {BF16: torch.bfloat16, FP16: torch.float16}
SPACING = {BF16: 2.0**-7, FP16: 2.0**-10}
"""Of the values just above 1: sums that differ in their last bits may be rounded to neighbours."""
OPSET = {BF16: 22, FP16: 18}
VIDEO = (1, 4, 3, 6, 7)

N = helper.make_node


def half(elem_type, nodes=None, opset=None):
    """x -> Conv3D -> SiLU -> Conv3D -> y, all in one type, or other nodes from x to y."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    nodes = nodes or [
        N("Conv", ["x", "w", "b"], ["h"], name="first", pads=[1] * 6),
        N("Sigmoid", ["h"], ["s"], name="sigmoid"),
        N("Mul", ["h", "s"], ["m"], name="mul"),
        N("Conv", ["m", "w", "b"], ["y"], name="second", pads=[1] * 6),
    ]
    values = {"w": draw((4, 4, 3, 3, 3), 1) / 8, "b": draw((4,), 2)}
    return model(
        nodes,
        [value("x", VIDEO, elem_type)],
        [value("y", [None] * 5, elem_type)],
        [from_array(v.astype(dtype), k) for k, v in values.items()],
        opset=opset or OPSET[elem_type],
    )


def by_torch(elem_type, x):
    """The same in PyTorch, which sums in fp32 and rounds each result."""
    kind = TORCH[elem_type]
    w, b = (torch.from_numpy(v).to(kind) for v in (draw((4, 4, 3, 3, 3), 1) / 8, draw((4,), 2)))
    h = torch.nn.functional.conv3d(torch.from_numpy(x).to(kind), w, b, padding=1)
    m = h * torch.sigmoid(h)
    return torch.nn.functional.conv3d(m, w, b, padding=1).double().numpy()


def converted(graph, tmp_path, target, **options):
    source = save(graph, tmp_path / "source.onnx")
    out = tmp_path / "out.onnx"
    result = convert(source, out, target=target, overwrite=True, **options)
    return onnx.load(out), result


def types_of(graph):
    """Node name -> ONNX element type of its first input."""
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input)}
    types |= {t.name: t.data_type for t in inferred.initializer}
    return {n.name: types[n.input[0]] for n in inferred.node}


@pytest.mark.parametrize("elem_type", [BF16, FP16])
def test_for_the_cpu_all_is_computed_in_fp32_and_rounded(tmp_path, elem_type):
    """And is then what PyTorch's own half precision gives."""
    graph, result = converted(half(elem_type), tmp_path, "cpu")
    assert (result.conv3d_left, result.opset.after) == (0, 18)
    assert (result.placement.complete, result.validation.passed) == (True, True)
    x = draw(VIDEO, 3)
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    [y] = session(graph).run_with_ort_values(["y"], {"x": ort_value(x.astype(dtype), elem_type)})
    got = as_float(y)
    wanted = by_torch(elem_type, x)
    apart = np.abs(got - wanted) / np.maximum(np.abs(wanted), 1)
    assert apart.max() <= 2 * SPACING[elem_type]
    assert np.mean(got != wanted) < 0.2
    assert np.mean(apart > SPACING[elem_type] / 2) < 0.05


def ort_value(array, elem_type):
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), elem_type)


def as_float(value):
    from converter.session import Session

    return np.asarray(Session.array(value), np.float64)


@pytest.mark.parametrize("elem_type", [BF16, FP16])
@pytest.mark.parametrize("target", ["generic", "cpu", "rocm", "migraphx", "cuda"])
def test_inputs_outputs_and_weights_keep_their_type(tmp_path, target, elem_type):
    graph, result = converted(half(elem_type), tmp_path, target, validate=False)
    assert graph.graph.input[0].type.tensor_type.elem_type == elem_type
    assert graph.graph.output[0].type.tensor_type.elem_type == elem_type
    types = {t.data_type for t in graph.graph.initializer if t.name.split(".")[0] in ("w", "b")}
    assert types == {elem_type}
    assert target == "generic" or result.placement.complete


@pytest.mark.parametrize(
    ("elem_type", "target", "opset", "wide", "why"),
    [
        (BF16, "cpu", 18, {"first", "sigmoid", "mul", "second"}, "CPUExecutionProvider has no"),
        (BF16, "rocm", 18, {"first", "sigmoid", "second"}, "ROCMExecutionProvider has no bfloat16"),
        (BF16, "cuda", 18, {"first", "second"}, "ONNX has no bfloat16 Conv at opset 18"),
        (BF16, "migraphx", 22, set(), ""),
        (FP16, "cpu", 18, {"first", "sigmoid", "mul", "second"}, "CPUExecutionProvider has no"),
        (FP16, "rocm", 18, set(), ""),
        (FP16, "migraphx", 18, set(), ""),
        (FP16, "cuda", 18, set(), ""),
    ],
)
def test_what_the_target_lacks_is_widened_and_nothing_else(
    tmp_path, elem_type, target, opset, wide, why
):
    graph, result = converted(half(elem_type), tmp_path, target, strategy="keep", validate=False)
    found = {n: t for n, t in types_of(graph).items() if n in ("first", "sigmoid", "mul", "second")}
    assert {name for name, t in found.items() if t == FLOAT} == wide
    assert {t for name, t in found.items() if name not in wide} <= {elem_type}
    assert graph.opset_import[0].version == opset
    notes = [note for note in result.notes if "between Casts" in note]
    assert len(notes) == bool(wide)
    assert all(note.startswith(f"{len(wide)} nodes compute in fp32") for note in notes)
    assert all(why in note for note in notes)


def test_a_graph_for_any_runtime_stays_in_its_type(tmp_path):
    graph, _ = converted(half(BF16), tmp_path, "generic", validate=False)
    assert "Cast" not in {n.op_type for n in graph.graph.node}


def test_the_opset_that_the_user_insists_on_decides(tmp_path):
    graph, result = converted(half(FP16), tmp_path, "cuda", opset=22, validate=False)
    assert graph.opset_import[0].version == 22
    assert result.placement.complete
    graph, _ = converted(half(BF16), tmp_path, "cuda", opset=22, strategy="keep", validate=False)
    assert types_of(graph)["first"] == BF16


def test_a_pad_in_front_is_still_absorbed(tmp_path):
    nodes = [
        N("Pad", ["x", "pads"], ["p"], name="pad"),
        N("Conv", ["p", "w", "b"], ["y"], name="conv"),
    ]
    graph = half(BF16, nodes)
    pads = np.array([0, 0, 2, 1, 1, 0, 0, 0, 1, 1], np.int64)
    graph.graph.initializer.append(from_array(pads, "pads"))
    _, result = converted(graph, tmp_path, "rocm")
    assert result.plan.entries[0].attributes == "k3 p2:0,1,1"
    assert (result.placement.complete, result.validation.passed) == (True, True)


def test_what_moves_values_needs_no_rounding(tmp_path):
    nodes = [
        N("Pad", ["x", "pads"], ["p"], name="pad"),
        N("Conv", ["p", "w", "b"], ["c"], name="conv"),
        N("Relu", ["p"], ["r"], name="relu"),
        N("Add", ["c", "r"], ["y"], name="add"),
    ]
    graph = half(BF16, nodes)
    pads = np.array([0, 0, 1, 1, 1, 0, 0, 1, 1, 1], np.int64)
    graph.graph.initializer.append(from_array(pads, "pads"))
    nodes[1].attribute.append(helper.make_attribute("pads", [1] * 6))
    narrow, _ = converted(graph, tmp_path, "cpu", strategy="keep", validate=False)
    casts = [n for n in narrow.graph.node if n.op_type == "Cast"]
    into = [n for n in casts if n.attribute[0].i == FLOAT]
    # x once, w, b, and both sums; the Pad's and the Relu's results go on as they are.
    assert len(into) == 4
    assert len(casts) == 6


def test_nested_graphs(tmp_path):
    bf16 = ml_dtypes.bfloat16
    branches = [
        helper.make_graph(
            [N("Conv", ["x", name], ["inner_y"], name=f"in_{name}", pads=[1] * 6)],
            "branch",
            [],
            [value("inner_y", [None] * 5, BF16)],
            [from_array((draw((4, 4, 3, 3, 3), seed) / 8).astype(bf16), name)],
        )
        for seed, name in ((1, "w1"), (2, "w2"))
    ]
    graph = model(
        [N("If", ["c"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1])],
        [value("x", VIDEO, BF16), value("c", [], TensorProto.BOOL)],
        [value("y", [None] * 5, BF16)],
        opset=22,
    )
    narrow, result = converted(graph, tmp_path, "rocm", validate=False)
    assert result.placement.complete
    assert (
        sum(n.op_type == "Cast" and n.attribute[0].i == BF16 for n in all_nodes(narrow.graph)) == 2
    )


def test_the_file_says_where_each_output_is(tmp_path):
    narrow, _ = converted(half(BF16), tmp_path, "rocm", validate=False)
    outputs = json.loads({p.key: p.value for p in narrow.metadata_props}["convert_vae.outputs"])
    assert list(outputs) == ["h", "y"]
    made = {output for node in narrow.graph.node for output in node.output}
    assert {place["tensor"] for place in outputs.values()} <= made


@pytest.mark.parametrize("target", ["generic", "cpu", "rocm", "migraphx"])
def test_the_precision_that_a_graph_has_already(tmp_path, target):
    plain, _ = converted(half(BF16), tmp_path, target, validate=False)
    again, result = converted(half(BF16), tmp_path, target, precision="bf16", validate=False)
    assert result.precision.sentence() == (
        "bf16: nothing was lowered: the convolutions are in half precision already"
    )
    assert again.graph == plain.graph


@pytest.mark.parametrize(
    ("elem_type", "precision", "said"),
    [
        (BF16, "fp16", "bfloat16"),
        (FP16, "bf16", "float16"),
        (TensorProto.DOUBLE, "bf16", "float64"),
    ],
)
@pytest.mark.parametrize("target", ["generic", "rocm"])
def test_another_precision_is_refused(tmp_path, elem_type, precision, said, target):
    source = save(half(elem_type, opset=22), tmp_path / "source.onnx")
    with pytest.raises(UserError, match=f"starts from fp32, and the .* are in {said}; leave"):
        convert(source, tmp_path / "out.onnx", target=target, precision=precision)
    assert not (tmp_path / "out.onnx").exists()


def test_an_opset_that_the_target_does_not_load_is_refused(tmp_path):
    source = save(half(FP16), tmp_path / "source.onnx")
    with pytest.raises(UserError, match="target rocm: opset 23 is newer than 22, the last"):
        convert(source, tmp_path / "out.onnx", target="rocm", opset=23, validate=False)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("target", ["rocm", "cpu"])
def test_what_would_not_load_is_refused(tmp_path, target):
    source = save(half(TensorProto.DOUBLE, opset=18), tmp_path / "source.onnx")
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out.onnx", target=target, validate=False)
    assert f"cannot be made for the target {target}: " in str(caught.value)
    assert "Conv not for double" in str(caught.value)
    assert str(caught.value).endswith("name another --target, or none.")
    assert not (tmp_path / "out.onnx").exists()
    assert convert(source, tmp_path / "out.onnx", target="cuda", validate=False).written
