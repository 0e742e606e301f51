"""Lowered graphs against PyTorch's own bf16 and fp16, and against rounding by hand."""

import json

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from converter import convert
from converter.compare.reference_evaluator import ReferenceRunner
from tests.execute import session
from tests.small_models import all_nodes, draw, model, save, value

torch = pytest.importorskip("torch")

BF16, FP16, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT
DTYPE = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16}
TYPE = {"bf16": BF16, "fp16": FP16}
# Spacing of the values just above 1: two sums that differ in their last bits may be rounded to
# neighbours, and no further.
SPACING = {"bf16": 2.0**-7, "fp16": 2.0**-10}
VIDEO = (1, 8, 5, 6, 7)

N = helper.make_node


def rounded(array, precision):
    """To the narrow type, to nearest, ties to even, and back."""
    return array.astype(DTYPE[precision]).astype(np.float32)


def conv_model(rank=3, *, transposed=False, bias=True, runtime=False, pad=False, **attributes):
    """x -> (Pad) -> Conv -> y, and the arguments that PyTorch takes for the same."""
    channels = VIDEO[: rank + 2]
    shape = (8, 6, *[3] * rank) if transposed else (6, 8 // attributes.get("group", 1), *[3] * rank)
    w, b = draw(shape, 1) / 8, draw((6,), 2)
    nodes, source = [], "x"
    if pad:
        nodes.append(N("Pad", ["x", "pads"], ["padded"], name="pad"))
        source = "padded"
    op = "ConvTranspose" if transposed else "Conv"
    inputs = [source, "w", *(["b"] if bias else [])]
    nodes.append(N(op, inputs, ["y"], name="conv", **attributes))
    pads = np.array([0, 0, 2, *[1] * (rank - 1), 0, 0, 0, *[1] * (rank - 1)], np.int64)
    values = {"w": w, "b": b, "pads": pads}
    needed = [*(["b"] if bias else []), *(["pads"] if pad else [])]
    graph = model(
        nodes,
        [value("x", channels), *([value("w", shape)] if runtime else [])],
        [value("y", [None] * (rank + 2))],
        [from_array(values[name], name) for name in [*needed, *([] if runtime else ["w"])]],
    )
    return graph, {"x": draw(channels, 3)}, (w, b if bias else None, pads if pad else None)


def torch_conv(x, parts, precision, rank=3, transposed=False, **attributes):
    """PyTorch's convolution in the narrow type: exact or fp32 sums, one rounding of the result.

    Its transposed convolution rounds partial sums too, so that is done in float64.
    """
    w, b, pads = parts
    if pads is not None:
        x = np.pad(x, [(pads[i], pads[i + rank + 2]) for i in range(rank + 2)])

    def narrow(array):
        tensor = torch.from_numpy(array).to(TORCH[precision])
        return tensor.double() if transposed else tensor

    name = f"conv{'_transpose' if transposed else ''}{rank}d"
    y = getattr(torch.nn.functional, name)(
        narrow(x),
        narrow(w),
        None if b is None else narrow(b),
        stride=attributes.get("strides", [1] * rank),
        padding=list(attributes.get("pads", [0] * rank))[:rank],
        groups=attributes.get("group", 1),
        dilation=attributes.get("dilations", [1] * rank),
    )
    return y.to(TORCH[precision]).float().numpy()


def lowered(graph, tmp_path, precision, name="lowered", **options):
    source = save(graph, tmp_path / "source.onnx")
    result = convert(
        source,
        tmp_path / f"{name}.onnx",
        precision=precision,
        validate=False,
        overwrite=True,
        **options,
    )
    return onnx.load(tmp_path / f"{name}.onnx"), result


def run(graph, feed):
    """In a session of onnxruntime with all its optimizations."""
    return session(graph).run(None, feed)


def assert_one_rounding_apart(got, wanted, precision):
    """Equal but for a few elements whose sums fell on either side of a rounding boundary."""
    assert got.dtype == wanted.dtype == np.float32
    np.testing.assert_array_equal(got, rounded(got, precision))
    excess = np.abs(got - wanted) - SPACING[precision] * np.maximum(np.abs(wanted), 1e-2)
    assert excess.max() <= 0
    assert np.mean(got != wanted) < 0.02


CASES = {
    "3d": {},
    "2d": {"rank": 2},
    "pads": {"pads": [1] * 6},
    "strides, dilations, groups": {
        "strides": [1, 2, 1], "dilations": [2, 1, 2], "group": 2, "pads": [2, 1, 2, 2, 1, 2],
    },
    "no bias": {"bias": False},
    "transposed": {"rank": 2, "transposed": True, "strides": [2, 2]},
    "weights at run time": {"runtime": True},
    "behind a causal pad": {"pad": True},
}  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_is_pytorchs_in_that_type(tmp_path, case, precision):
    graph, feed, parts = conv_model(**CASES[case])
    settings = {k: v for k, v in CASES[case].items() if k not in ("bias", "runtime", "pad")}
    wanted = torch_conv(feed["x"], parts, precision, **settings)
    if CASES[case].get("runtime"):
        feed["w"] = parts[0]
    narrow, result = lowered(graph, tmp_path, precision, target="cpu")
    [got] = run(narrow, feed)
    assert result.precision.form == "rounded"
    assert_one_rounding_apart(got, wanted, precision)
    [full] = run(graph, feed)
    assert np.abs(full - got).max() > SPACING[precision] / 16  # Something was rounded at all.


def test_the_cpu_provider_computes_native_fp16_more_exactly_than_asked(tmp_path):
    """It runs the Conv in fp32 and drops Casts to fp16 that a Cast back follows."""
    graph, feed, parts = conv_model(pads=[1] * 6)
    native, result = lowered(graph, tmp_path, "fp16")
    assert result.precision.form == "native"
    [got], [full] = run(native, feed), run(graph, feed)
    wanted = torch_conv(feed["x"], parts, "fp16", pads=[1] * 6)
    error, most = np.abs(got - full).max(), np.abs(wanted - full).max()
    assert 0 < error <= 1.1 * most


@pytest.mark.parametrize("strategy", ["keep", "unfold", "taps", "winograd"])
def test_every_strategy_rounds_the_same_operands_and_one_result(tmp_path, strategy):
    graph, feed, parts = conv_model(pads=[1] * 6)
    wanted = torch_conv(feed["x"], parts, "bf16", pads=[1] * 6)
    narrow, result = lowered(graph, tmp_path, "bf16", strategy=strategy)
    assert result.conv3d_left == (strategy == "keep")
    assert_one_rounding_apart(run(narrow, feed)[0], wanted, "bf16")


def test_weights_are_rounded_to_nearest_and_ties_to_even(tmp_path):
    """bf16 keeps 8 bits: around 1 the spacing is 2^-7."""
    step = 2.0**-7
    given = np.array([1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -1 - step / 2, 3e38, 1e-40])
    w = np.resize(given.astype(np.float32), (6, 8, 3, 3, 3))
    graph, _, _ = conv_model(bias=False)
    graph.graph.initializer[0].CopyFrom(from_array(w, "w"))
    narrow, _ = lowered(graph, tmp_path, "bf16", strategy="keep")
    [stored] = [t for t in narrow.graph.initializer if t.data_type == BF16]
    values = to_array(stored).astype(np.float64).ravel()[:6]
    np.testing.assert_array_equal(values[:4], [1, 1 + 2 * step, 1 + step, -1])
    # The range is that of fp32: neither overflow nor zero, and 2^-133 is the least of all.
    np.testing.assert_allclose(values[4:], [3e38, 1e-40], rtol=2.0**-8, atol=2.0**-134)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("target", ["generic", "rocm", "cpu", "migraphx"])
def test_the_weights_take_half_the_bytes_on_every_target(tmp_path, precision, target):
    graph, _, (w, b, _) = conv_model()
    narrow, _ = lowered(graph, tmp_path, precision, target=target)
    floats = [t for t in narrow.graph.initializer if t.name[:2] in ("w.", "b.")]
    assert {t.data_type for t in floats} == {TYPE[precision]}
    assert sum(len(t.raw_data) for t in floats) == 2 * (w.size + b.size)


@pytest.mark.parametrize(
    ("precision", "target", "opset", "form", "why"),
    [
        ("bf16", "generic", 18, "rounded", "an fp32 Conv of bf16 values runs on every provider"),
        ("bf16", "rocm", 18, "rounded", "ROCMExecutionProvider has no bfloat16 Conv"),
        ("bf16", "cpu", 18, "rounded", "CPUExecutionProvider has no bfloat16 Conv"),
        ("bf16", "migraphx", 22, "native", "MIGraphXExecutionProvider takes it at opset 22"),
        ("bf16", "cuda", 18, "rounded", "ONNX has no bfloat16 Conv at opset 18"),
        ("fp16", "generic", 18, "native", "ONNX allows it at any opset"),
        ("fp16", "rocm", 18, "native", "ROCMExecutionProvider takes it at opset 18"),
        ("fp16", "cpu", 18, "rounded", "CPUExecutionProvider has no float16 Conv"),
    ],
)
def test_the_form_follows_from_what_the_target_has(tmp_path, precision, target, opset, form, why):
    graph, _, _ = conv_model()
    narrow, result = lowered(graph, tmp_path, precision, target=target)
    assert (result.precision.form, result.precision.why) == (form, why)
    assert narrow.opset_import[0].version == opset
    types = {t.name: t.data_type for t in narrow.graph.initializer}
    multiplied = {types.get(n.input[1]) for n in narrow.graph.node if n.op_type == "Conv"}
    assert multiplied == ({TYPE[precision]} if form == "native" else {None})
    if target != "generic":
        assert result.placement.complete


def test_an_opset_that_the_user_insists_on_decides_the_form(tmp_path):
    graph, _, _ = conv_model()
    _, result = lowered(graph, tmp_path, "bf16", target="migraphx", opset=18)
    assert result.precision.form == "rounded"
    assert result.precision.why == "ONNX has no bfloat16 Conv at opset 18"


def test_both_forms_of_bf16_agree(tmp_path):
    """The native one runs in ONNX's reference evaluator: no provider for the CPU has it."""
    graph, feed, parts = conv_model(pads=[1] * 6)
    lowered(graph, tmp_path, "bf16", target="migraphx", name="native")
    [native] = ReferenceRunner(tmp_path / "native.onnx").run(feed).values()
    plain, _ = lowered(graph, tmp_path, "bf16")
    wanted = torch_conv(feed["x"], parts, "bf16", pads=[1] * 6)
    assert_one_rounding_apart(native, wanted, "bf16")
    assert_one_rounding_apart(run(plain, feed)[0], native, "bf16")


def test_inputs_outputs_and_named_tensors_keep_their_types(tmp_path):
    graph = model(
        [
            N("Conv", ["x", "w"], ["middle"], name="first", pads=[1] * 6),
            N("Relu", ["middle"], ["r"], name="relu"),
            N("Conv", ["r", "w"], ["y"], name="second", pads=[1] * 6),
        ],
        [value("x", VIDEO)],
        [value("y", [None] * 5), value("middle", [None] * 5)],
        [from_array(draw((8, 8, 3, 3, 3), 1) / 8, "w")],
    )
    narrow, _ = lowered(graph, tmp_path, "bf16")
    assert [o.type.tensor_type.elem_type for o in narrow.graph.output] == [FLOAT, FLOAT]
    feed = {"x": draw(VIDEO, 3)}
    w = to_array(graph.graph.initializer[0])
    first = torch_conv(feed["x"], (w, None, None), "bf16", pads=[1] * 6)
    second = torch_conv(np.maximum(first, 0), (w, None, None), "bf16", pads=[1] * 6)
    y, middle = run(narrow, feed)
    assert_one_rounding_apart(middle, first, "bf16")
    assert np.abs(y - second).max() < 0.1
    stored = [t for t in narrow.graph.initializer if t.data_type == BF16]
    assert sum(len(t.raw_data) for t in stored) == 2 * w.size  # Shared once more.


def test_a_pad_is_still_absorbed(tmp_path):
    graph, _, _ = conv_model(pad=True)
    _, full = lowered(graph, tmp_path, "fp32")
    for precision, target in (("bf16", "generic"), ("bf16", "migraphx"), ("fp16", "rocm")):
        narrow, result = lowered(graph, tmp_path, precision, target=target)
        assert [e.attributes for e in result.plan.entries] == [
            e.attributes for e in full.plan.entries
        ]
        assert "pad" not in {n.name for n in narrow.graph.node}


def upsampling(mode="nearest"):
    """x (1, 8, 1, 6, 7) -> Conv3D -> its frame -> Resize by 2 -> Conv 3x3 -> y, as in decoders."""
    nodes = [
        N("Conv", ["x", "w3"], ["h"], name="first", pads=[1] * 6),
        N("Squeeze", ["h", "time"], ["frame"], name="frame"),
        N("Resize", ["frame", "", "scales"], ["large"], name="resize", mode=mode),
        N("Conv", ["large", "w", "b"], ["y"], name="conv", pads=[1] * 4),
    ]
    values = {
        "w3": draw((8, 8, 3, 3, 3), 1) / 8,
        "w": draw((6, 8, 3, 3), 2) / 8,
        "b": draw((6,), 4),
        "time": np.array([2]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    return model(
        nodes,
        [value("x", (1, 8, 1, 6, 7))],
        [value("y", [None] * 4)],
        [from_array(v, k) for k, v in values.items()],
    ), values


@pytest.mark.parametrize(
    ("precision", "target", "merged"),
    [
        ("bf16", "cpu", True),
        ("bf16", "generic", True),
        ("bf16", "rocm", True),
        ("fp16", "cpu", True),
        ("fp16", "rocm", False),
        ("fp16", "generic", False),
        ("bf16", "migraphx", False),
    ],
)
def test_upsampling_is_merged_into_its_conv_where_sums_of_weights_stay_exact(
    tmp_path, precision, target, merged
):
    """Not where they would be fp16 or bf16: a sum of two bf16 weights takes more than 8 bits."""
    graph, values = upsampling()
    narrow, result = lowered(graph, tmp_path, precision, target=target)
    ops = [n.op_type for n in narrow.graph.node]
    assert ("DepthToSpace" in ops, "Resize" in ops) == (merged, not merged)
    assert (result.precision.form == "rounded") == merged
    x = draw((1, 8, 1, 6, 7), 3)
    first = torch_conv(x, (values["w3"], None, None), precision, pads=[1] * 6)
    large = np.repeat(np.repeat(first[:, :, 0], 2, axis=2), 2, axis=3)
    parts = (values["w"], values["b"], None)
    wanted = torch_conv(large, parts, precision, rank=2, pads=[1] * 4)
    if merged:
        [got] = run(narrow, {"x": x})
    else:
        [got] = ReferenceRunner(tmp_path / "lowered.onnx").run({"x": x}).values()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, rounded(got, precision))
    # `first` may be rounded to a neighbour, and each result again.
    assert np.abs(got - wanted).max() <= 4 * SPACING[precision] * np.abs(wanted).max()
    assert np.mean(got != wanted) < 0.05


def test_another_resize_is_not_merged_and_still_rounded(tmp_path):
    graph, _ = upsampling("linear")
    narrow, _ = lowered(graph, tmp_path, "bf16")
    assert "Resize" in {n.op_type for n in narrow.graph.node}
    [y] = run(narrow, {"x": draw((1, 8, 1, 6, 7), 3)})
    np.testing.assert_array_equal(y, rounded(y, "bf16"))


def test_convolutions_in_nested_graphs(tmp_path):
    def branch(sign):
        w = from_array(sign * draw((8, 8, 3, 3, 3), 1) / 8, "inner_w")
        return helper.make_graph(
            [N("Conv", ["x", "inner_w"], ["inner_y"], name=f"inner{sign}")],
            "branch",
            [],
            [value("inner_y", [None] * 5)],
            [w],
        )

    graph = model(
        [N("If", ["c"], ["y"], name="if", then_branch=branch(1), else_branch=branch(-1))],
        [value("x", VIDEO), value("c", [], TensorProto.BOOL)],
        [value("y", [None] * 5)],
    )
    narrow, result = lowered(graph, tmp_path, "bf16")
    assert result.precision.lowered == 2
    x, w = draw(VIDEO, 3), draw((8, 8, 3, 3, 3), 1) / 8
    for flag, sign in ((True, 1), (False, -1)):
        [got] = run(narrow, {"x": x, "c": np.array(flag)})
        wanted = torch_conv(x, ((sign * w).astype(np.float32), None, None), "bf16")
        assert_one_rounding_apart(got, wanted, "bf16")


def test_what_fp16_cannot_hold_stays_in_fp32_and_is_named(tmp_path):
    w = draw((8, 8, 3, 3, 3), 1)
    w[3, 2, 1, 0, 1] = 65536
    graph = model(
        [
            N("Conv", ["x", "w"], ["h"], name="large", pads=[1] * 6),
            N("Conv", ["h", "v"], ["y"], name="small", pads=[1] * 6),
        ],
        [value("x", VIDEO)],
        [value("y", [None] * 5)],
        [from_array(w, "w"), from_array(draw((8, 8, 3, 3, 3), 2), "v")],
    )
    narrow, result = lowered(graph, tmp_path, "fp16", strategy="keep")
    assert result.precision.kept == {"large": "its constant w holds 6.55e+04, over 65504"}
    assert result.precision.lowered == 1
    types = {t.name.split(".")[0]: t.data_type for t in narrow.graph.initializer}
    assert types == {"w": FLOAT, "v": FP16}
    _, bf16 = lowered(graph, tmp_path, "bf16", strategy="keep")
    assert bf16.precision.kept == {}


def test_a_scalar_that_fp16_would_make_zero_stays_in_fp32_and_is_named(tmp_path):
    nodes = [
        N("Conv", ["x", "w"], ["h"], name="conv"),
        N("Mul", ["h", "tiny"], ["m"], name="scale"),
        N("Mul", ["m", "half"], ["y"], name="halve"),
    ]
    constants = {"tiny": np.float32(1e-6), "half": np.float32(0.5)}
    graph = model(
        nodes,
        [value("x", (1, 8, 6, 7))],
        [value("y", [None] * 4)],
        [
            from_array(draw((8, 8, 3, 3), 1), "w"),
            *(from_array(np.array(v), k) for k, v in constants.items()),
        ],
    )
    narrow, result = lowered(graph, tmp_path, "fp16", precision_scope="all")
    assert result.precision.kept == {"scale": "its constant tiny is 1e-06, too small for fp16"}
    types = operand_types(narrow)
    assert (types["conv"], types["scale"], types["halve"]) == (FP16, FLOAT, FP16)


def test_what_only_moves_values_is_not_rounded_again(tmp_path):
    nodes = [
        N("Conv", ["x", "w"], ["h"], name="first", pads=[1] * 4),
        N("Relu", ["h"], ["r"], name="relu"),
        N("Neg", ["r"], ["t"], name="neg"),
        N("Conv", ["t", "w"], ["y"], name="second", pads=[1] * 4),
    ]
    w = from_array(draw((8, 8, 3, 3), 1) / 8, "w")
    graph = model(nodes, [value("x", (1, 8, 6, 7))], [value("y", [None] * 4)], [w])
    narrow, _ = lowered(graph, tmp_path, "bf16", precision_scope="all", target="cpu")
    casts = [n for n in narrow.graph.node if n.op_type == "Cast"]
    assert len(casts) == 7  # To bf16 and back for x and both sums, and the weights' one.


def norm_block():
    """Conv -> L2 norm over channels -> SiLU -> attention -> Conv, as Wan's decoder has it.

    Activations reach some thousand, so that their squares overflow fp16.
    """
    nodes = [
        N("Conv", ["x", "w1"], ["h"], name="conv1", pads=[1] * 4),
        N("ReduceL2", ["h", "channels"], ["norm"], name="norm", keepdims=1),
        N("Clip", ["norm", "eps"], ["clipped"], name="clip"),
        N("Div", ["h", "clipped"], ["normed"], name="div"),
        N("Mul", ["normed", "gamma"], ["scaled"], name="gamma"),
        N("Sigmoid", ["scaled"], ["gate"], name="sigmoid"),
        N("Mul", ["scaled", "gate"], ["act"], name="silu"),
        N("Reshape", ["act", "flat"], ["q"], name="flatten"),
        N("Transpose", ["q"], ["k"], name="transpose", perm=[0, 2, 1]),
        N("MatMul", ["k", "q"], ["scores"], name="scores"),
        N("Softmax", ["scores"], ["attention"], name="softmax"),
        N("MatMul", ["q", "attention"], ["mixed"], name="mix"),
        N("Reshape", ["mixed", "planes"], ["m"], name="unflatten"),
        N("Add", ["m", "act"], ["sum"], name="residual"),
        N("Conv", ["sum", "w2"], ["y"], name="conv2", pads=[1] * 4),
    ]
    values = {
        "w1": draw((8, 8, 3, 3), 1) * 100,
        "w2": draw((8, 8, 3, 3), 2),
        "channels": np.array([1]),
        "eps": np.array(1e-12, np.float32),
        "gamma": draw((8, 1, 1), 3),
        "flat": np.array([0, 0, -1]),
        "planes": np.array([0, 0, 6, 7]),
    }
    return model(
        nodes,
        [value("x", (1, 8, 6, 7))],
        [value("y", [None] * 4)],
        [from_array(v, k) for k, v in values.items()],
    )


def operand_types(graph):
    """Node name -> ONNX element type of its first input."""
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in inferred.graph.input}
    types |= {t.name: t.data_type for t in inferred.graph.initializer}
    return {n.name: types[n.input[0]] for n in all_nodes(inferred.graph)}


def test_the_whole_decoder_in_fp16_but_norms_and_softmax(tmp_path):
    graph = norm_block()
    narrow, _ = lowered(graph, tmp_path, "fp16", precision_scope="all", layout=False)
    types = operand_types(narrow)
    wide = {"norm", "clip", "div", "softmax"}
    for name in [n.name for n in graph.graph.node]:
        assert types[name] == (FLOAT if name in wide else FP16), name
    feed = {"x": draw((1, 8, 6, 7), 4) * 10}
    [full], [half] = run(graph, feed), run(narrow, feed)
    assert full.dtype == half.dtype == np.float32
    error = np.sqrt(np.mean((full - half) ** 2)) / np.ptp(full)
    assert 20 * np.log10(1 / error) > 60


def test_an_all_zero_feature_vector_does_not_become_nan(tmp_path):
    """The norm's epsilon, 1e-12, is zero in fp16."""
    narrow, _ = lowered(norm_block(), tmp_path, "fp16", precision_scope="all")
    [y] = run(narrow, {"x": np.zeros((1, 8, 6, 7), np.float32)})
    np.testing.assert_array_equal(y, 0)


def test_scope_conv_leaves_all_else_alone(tmp_path):
    graph = norm_block()
    narrow, result = lowered(graph, tmp_path, "fp16", layout=False)
    types = operand_types(narrow)
    assert result.precision.lowered == 2
    for name in [n.name for n in graph.graph.node]:
        assert types[name] == (FP16 if name.startswith("conv") else FLOAT), name


@pytest.mark.parametrize("target", ["generic", "rocm", "cpu"])
def test_the_whole_decoder_in_bf16_runs_in_a_plain_session(tmp_path, target):
    """Sigmoid and Mul in bf16 would be fused into a QuickGelu that no kernel computes."""
    graph = norm_block()
    narrow, result = lowered(graph, tmp_path, "bf16", precision_scope="all", target=target)
    feed = {"x": draw((1, 8, 6, 7), 4) * 10}
    if target == "rocm":
        assert result.placement.complete
        return  # Its bf16 Mul and Add are ROCm's alone.
    [full], [half] = run(graph, feed), run(narrow, feed)
    error = np.sqrt(np.mean((full - half) ** 2)) / np.ptp(full)
    assert 40 < 20 * np.log10(1 / error) < 70


def test_fp32_changes_nothing(tmp_path):
    graph = norm_block()
    source = save(graph, tmp_path / "a.onnx")
    result = convert(source, tmp_path / "b.onnx", precision="fp32", validate=False)
    assert result.precision is None
    assert (tmp_path / "b.onnx").read_bytes() == source.read_bytes()


def test_a_session_folds_the_weight_casts_once(tmp_path):
    """So the file is half the size, and the memory of a CPU session is not."""
    graph, _, _ = conv_model(rank=2)
    narrow, _ = lowered(graph, tmp_path, "bf16")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        narrow.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    casts = [n for n in onnx.load(tmp_path / "optimized.onnx").graph.node if n.op_type == "Cast"]
    assert len(casts) == 4  # Two for the input, two for the result, none for weights and bias.


def test_the_report_is_in_json_and_in_the_file(tmp_path):
    graph, _, _ = conv_model()
    narrow, result = lowered(graph, tmp_path, "bf16", target="rocm")
    report = result.to_json()["precision"]
    assert (report["precision"], report["form"], report["lowered"]) == ("bf16", "rounded", 1)
    assert result.precision.sentence() == (
        "bf16: 1 node, rounded form: ROCMExecutionProvider has no bfloat16 Conv"
    )
    props = {p.key: p.value for p in narrow.metadata_props}
    assert '"precision": "bf16"' in props["convert_vae.options"]
    assert '"form": "rounded"' in props["convert_vae.precision"]


@pytest.mark.parametrize("target", ["rocm", "migraphx"])
def test_the_file_says_where_each_output_is(tmp_path, target):
    graph, _, _ = conv_model(pads=[1] * 6)
    graph.graph.node[0].output[0] = "middle"
    graph.graph.node.append(N("Relu", ["middle"], ["y"], name="relu"))
    narrow, _ = lowered(graph, tmp_path, "bf16", target=target)
    [(name, place)] = json.loads(
        {p.key: p.value for p in narrow.metadata_props}["convert_vae.outputs"]
    ).items()
    assert name == "middle"
    made = {output for node in narrow.graph.node for output in node.output}
    assert place["tensor"] in made
