import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from converter.placement import place
from tests import small_models
from tests.small_models import value

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
N = helper.make_node


def model(nodes, inputs, outputs, initializers=None, **settings):
    """`inputs` and `outputs`: name -> (element type, dims); `initializers`: name -> values."""
    return small_models.model(
        nodes,
        [value(name, dims, elem_type) for name, (elem_type, dims) in inputs.items()],
        [value(name, dims, elem_type) for name, (elem_type, dims) in outputs.items()],
        [from_array(np.asarray(v), name) for name, v in (initializers or {}).items()],
        **settings,
    )


def one(op, *extra, elem_type=FLOAT, opset=18, initializers=None, **attributes):
    """A model of one node named n."""
    return model(
        [N(op, ["x", *extra], ["y"], name="n", **attributes)],
        {"x": (elem_type, ["N", 4, 8, 8])},
        {"y": (elem_type, [None] * 4)},
        initializers,
        opset=opset,
    )


def conv(elem_type=FLOAT, opset=18):
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    return one(
        "Conv",
        "w",
        elem_type=elem_type,
        opset=opset,
        initializers={"w": np.ones((4, 4, 3, 3), dtype)},
    )


def video(n):
    """n dynamic dimensions before the channels' 4x4."""
    return (FLOAT, [f"d{i}" for i in range(n)] + [4, 4])


@pytest.mark.parametrize("target", ["cpu", "rocm", "migraphx", "cuda"])
def test_a_plain_conv_is_placed_everywhere(target):
    placement = place(conv(), target)
    assert placement.complete
    assert placement.placed == ("n",)
    assert placement.sentence().startswith("1 of 1 nodes on ")


@pytest.mark.parametrize(
    ("target", "elem_type", "opset", "fallen", "fatal"),
    [
        ("rocm", TensorProto.FLOAT, 21, False, False),
        ("rocm", TensorProto.FLOAT, 22, True, False),
        ("rocm", TensorProto.BFLOAT16, 22, True, True),  # the CPU has no bfloat16 Conv either
        ("rocm", TensorProto.DOUBLE, 18, True, True),
        ("cuda", TensorProto.BFLOAT16, 22, False, False),
        ("migraphx", TensorProto.BFLOAT16, 22, False, False),
        ("cpu", TensorProto.BFLOAT16, 22, True, True),
        ("cpu", TensorProto.FLOAT16, 18, True, False),  # runs in float between inserted Casts
    ],
)
def test_conv_by_type_and_opset(target, elem_type, opset, fallen, fatal):
    placement = place(conv(elem_type, opset), target)
    assert [f.node for f in placement.fallbacks] == (["n"] if fallen else [])
    assert any(f.fatal for f in placement.fallbacks) == fatal
    assert placement.complete != fallen


def test_a_model_can_be_asked_about_at_another_opset():
    assert place(conv(opset=22), "rocm", opset=18).complete
    assert not place(conv(opset=18), "rocm", opset=22).complete


def test_an_opset_or_ir_version_that_the_release_does_not_load_is_a_problem():
    newer = place(one("Relu", opset=23), "rocm")
    assert newer.problems == ("opset 23 is newer than 22, the last it loads",)
    relu = one("Relu")
    relu.ir_version = 11
    assert place(relu, "rocm").problems == ("IR 11 is newer than 10, the last it loads",)
    assert not place(relu, "rocm").complete
    assert place(relu, "migraphx").complete


def test_the_obstacle_is_what_keeps_a_session_from_being_made():
    assert place(conv(), "rocm").obstacle == ""
    assert place(conv(opset=22), "rocm").obstacle == ""  # It runs on the CPU, alas.
    assert place(one("Relu", opset=23), "rocm").obstacle == (
        "opset 23 is newer than 22, the last it loads"
    )
    double = place(conv(TensorProto.DOUBLE), "rocm").obstacle
    assert double.startswith("n: ROCMExecutionProvider has Conv not for double")


def test_an_operator_without_kernel_is_judged_by_its_definition():
    assert place(one("Mish"), "rocm").complete  # Softplus, Tanh, Mul
    late = place(one("Mish", opset=22), "rocm")
    assert late.fallbacks[0].reason.startswith(
        "Mish is defined by Softplus, and ROCMExecutionProvider has Softplus up to opset 21"
    )
    assert not place(one("Unique", sorted=0), "rocm").complete


def test_a_definition_is_not_used_where_the_cpu_has_a_kernel():
    """Elu (22) is defined by Less, Where...; onnxruntime takes the CPU's Elu instead."""
    [fallback] = place(one("Elu", opset=22), "rocm").fallbacks
    assert "has Elu up to opset 21" in fallback.reason


def test_shape_work_is_told_apart_and_counted():
    m = model(
        [
            N("Shape", ["x"], ["s"], name="shape"),
            N("Gather", ["s", "zero"], ["d"], name="gather"),
            N("Mul", ["d", "two"], ["d2"], name="mul"),
            N("Concat", ["d2", "rest"], ["target"], name="concat", axis=0),
            N("Reshape", ["x", "target"], ["y"], name="reshape"),
            N("Relu", ["y"], ["z"], name="relu"),
        ],
        {"x": video(2)},
        {"z": (FLOAT, [None] * 3)},
        {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1, 2])},
    )
    rocm = place(m, "rocm")
    assert rocm.placed == ("shape", "reshape", "relu")
    assert rocm.shape_work == ("gather", "mul", "concat")
    assert rocm.complete
    assert "3 shape computations on the CPU by design" in rocm.sentence()
    for target in ("cpu", "migraphx"):
        assert place(m, target).shape_work == ()
        assert len(place(m, target).placed) == 6


@pytest.mark.parametrize(
    ("size", "elem_type", "joins"),
    [(100, INT64, True), (101, INT64, False), (4, TensorProto.FLOAT16, False)],
)
def test_what_keeps_a_node_on_the_gpu_though_it_computes_with_shapes(size, elem_type, joins):
    """A larger constant, or half precision, keeps it there."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    m = model(
        [
            N("Shape", ["x"], ["s"], name="shape"),
            N("Cast", ["s"], ["c"], name="cast", to=elem_type),
            N("Concat", ["c", "k"], ["y"], name="concat", axis=0),
        ],
        {"x": video(2)},
        {"y": (elem_type, [None])},
        {"k": np.zeros(size, dtype)},
    )
    assert ("concat" in place(m, "rocm").shape_work) == joins


def test_an_input_read_on_the_host_does_not_draw_a_node_to_the_cpu():
    m = model(
        [
            N("Shape", ["x"], ["s"], name="shape", end=1),
            N("Slice", ["s", "zero", "one"], ["n"], name="slice"),
            N("ConstantOfShape", ["n"], ["y"], name="fill"),
        ],
        {"x": video(2)},
        {"y": (FLOAT, [None])},
        {"zero": np.array([0]), "one": np.array([1])},
    )
    placement = place(m, "rocm")
    assert placement.shape_work == ("slice",)
    assert placement.placed == ("shape", "fill")


def test_constants_are_folded_and_an_overridable_initializer_is_no_constant():
    m = one("Add", "c2", initializers={"c": np.ones(4, np.float32)})
    m.graph.node.insert(0, N("Neg", ["c"], ["c2"], name="neg"))
    assert place(m, "rocm").constants == ("neg",)
    m.graph.input.append(helper.make_tensor_value_info("c", FLOAT, [4]))
    assert place(m, "rocm").constants == ()
    assert place(m, "rocm").placed == ("neg", "n")
    m.ir_version = 3  # There every initializer is an input too, and fixed.
    assert place(m, "rocm").constants == ("neg",)


def test_nested_graphs_and_local_functions_are_looked_into():
    branch = helper.make_graph(
        [N("Unique", ["x"], ["u"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("u", FLOAT, [None])],
    )
    m = model(
        [
            N("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch),
            N("F", ["x"], ["z"], name="call", domain="local"),
        ],
        {"x": video(2), "c": (TensorProto.BOOL, [])},
        {"y": (FLOAT, [None]), "z": video(2)},
        functions=[
            helper.make_function(
                "local",
                "F",
                ["a"],
                ["b"],
                [N("Mish", ["a"], ["b"], name="mish")],
                [helper.make_opsetid("", 18)],
            )
        ],
    )
    placement = place(m, "rocm")
    assert [f.node for f in placement.fallbacks] == ["inner", "inner"]
    assert len(placement.placed) == 2
    assert list(placement.reasons()) == ["ROCMExecutionProvider has no kernel for Unique"]


def test_migraphx_needs_shapes_that_follow_from_shapes():
    def reshape(source):
        nodes = [
            N("Shape", ["x"], ["s"], name="shape"),
            N("Mul", [source, "one"], ["t"], name="mul"),
            N("Reshape", ["x", "t"], ["y"], name="reshape"),
        ]
        inputs = {"x": video(1), "size": (INT64, [3])}
        return model(nodes, inputs, {"y": video(1)}, {"one": np.array([1])})

    assert place(reshape("s"), "migraphx").complete
    [fallback] = place(reshape("size"), "migraphx").fallbacks
    assert "only where its input 1 is a constant" in fallback.reason


def test_an_operator_that_the_opset_lacks_is_named():
    [fallback] = place(one("Gelu", opset=18), "rocm").fallbacks
    assert fallback.reason.startswith("Gelu does not exist at opset 18")


def test_json_has_the_counts_and_every_reason():
    report = place(conv(TensorProto.BFLOAT16, 22), "rocm").to_json()
    assert (report["target"], report["complete"]) == ("rocm", False)
    assert (report["nodes"], report["placed"], report["constants"]) == (1, 0, 0)
    assert report["fallbacks"] == [
        {
            "node": "n",
            "op": "Conv",
            "fatal": True,
            "reason": "ROCMExecutionProvider has Conv up to opset 21, and this is the version of "
            "opset 22; nor does the CPU take it, so the graph does not load",
        }
    ]
