import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.bench.flops import direct_arithmetic
from tests.compare.graphs import model, save

F = TensorProto.FLOAT


def counted(tmp_path, nodes, shapes, weights=(), y=(), functions=(), opset=18):
    """Operations of a graph with inputs `shapes` and zero weights of shapes `weights`."""
    initializers = [
        value if not isinstance(value, tuple) else numpy_helper.from_array(np.zeros(value, "f4"), n)
        for n, value in dict(weights).items()
    ]
    inputs = [(name, F, dims) for name, dims in shapes.items()]
    built = model(nodes, inputs, [("y", F, y)], initializers, opset)
    built.functions.extend(functions)
    if functions:
        built.opset_import.append(helper.make_opsetid("local", 1))
    feed = {name: tuple(4 if isinstance(d, str) else d for d in s) for name, s in shapes.items()}
    return direct_arithmetic(save(built, tmp_path / "m.onnx"), feed)


# Multiply-adds by hand: elements of the output, times those of one kernel.
CONVS = [
    # x, w, attributes, rank-wise output, multiply-adds
    ((1, 2, 5, 6, 7), (3, 2, 3, 3, 3), {}, (1 * 3 * 3 * 4 * 5) * (2 * 27)),
    ((1, 2, 5, 6, 7), (3, 2, 3, 3, 3), {"pads": [1] * 6}, (3 * 5 * 6 * 7) * (2 * 27)),
    ((2, 4, 5, 6, 7), (6, 2, 3, 1, 1), {"group": 2}, (2 * 6 * 3 * 6 * 7) * (2 * 3)),
    ((1, 4, 8, 8), (4, 1, 3, 3), {"group": 4, "strides": [2, 2]}, (4 * 3 * 3) * (1 * 9)),
    ((1, 1, 9, 9), (2, 1, 3, 3), {"dilations": [2, 3]}, (2 * 5 * 3) * 9),
    ((1, 1, 9, 9), (2, 1, 3, 3), {"pads": [0, 1, 2, 0]}, (2 * 9 * 8) * 9),
    ((3, 1, 10), (1, 1, 4), {"strides": [3]}, (3 * 1 * 3) * 4),
]


@pytest.mark.parametrize(("x", "w", "attributes", "products"), CONVS)
def test_convolutions(tmp_path, x, w, attributes, products):
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    found = counted(tmp_path, [node], {"x": x}, {"w": w}, y=[None] * len(x))
    assert found.operations == {"Conv": 2 * products}
    assert found.total == 2 * products


def test_a_transposed_convolution_counts_its_input(tmp_path):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=2)
    found = counted(tmp_path, [node], {"x": (1, 4, 5, 6)}, {"w": (4, 3, 2, 2)}, y=[None] * 4)
    assert found.total == 2 * (4 * 5 * 6) * (3 * 4)


@pytest.mark.parametrize(
    ("a", "b", "products"),
    [
        ((3, 4), (4, 5), 3 * 4 * 5),
        ((2, 7, 3, 4), (4, 5), 2 * 7 * 3 * 4 * 5),
        ((3, 4), (6, 4, 5), 6 * 3 * 4 * 5),
        ((2, 1, 3, 4), (6, 4, 5), 2 * 6 * 3 * 4 * 5),
        ((4,), (4, 5), 4 * 5),
        ((4,), (4,), 4),
    ],
)
def test_matrix_products_with_batches(tmp_path, a, b, products):
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    rank = len(np.matmul(np.zeros(a), np.zeros(b)).shape)
    found = counted(tmp_path, [node], {"a": a, "b": b}, y=[None] * rank)
    assert found.total == 2 * products


@pytest.mark.parametrize(("a", "turned"), [((3, 4), 0), ((4, 3), 1)])
def test_gemm_sums_over_the_axis_that_trans_a_says(tmp_path, a, turned):
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transA=turned)
    found = counted(tmp_path, [node], {"a": a}, {"b": (4, 5)}, y=[None] * 2)
    assert found.total == 2 * 3 * 4 * 5


def test_several_nodes_add_up_and_cheap_ones_are_free(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("MatMul", ["c", "m"], ["y"]),
    ]
    weights = {"w": (2, 2, 3, 3), "m": (4, 7)}
    found = counted(tmp_path, nodes, {"x": (1, 2, 8, 8)}, weights, y=[None] * 4)
    convs = (2 * 6 * 6 + 2 * 4 * 4) * 18
    assert found.operations == {"Conv": 2 * convs, "MatMul": 2 * (2 * 4 * 4 * 7)}
    assert found.total == 2 * convs + 2 * (2 * 4 * 4 * 7)


def test_dynamic_sizes_are_the_feeds_even_through_arithmetic_on_shapes(tmp_path):
    """x (1, 2, T, H, W) -> frames (T, 2, H, W), as exporters write it."""
    constants = {
        "one": np.array(1, np.int64),
        "two": np.array([2], np.int64),
        "start": np.array([2], np.int64),
        "end": np.array([5], np.int64),
    }
    weights = {name: numpy_helper.from_array(value, name) for name, value in constants.items()}
    nodes = [
        helper.make_node("Shape", ["x"], ["dims"]),
        helper.make_node("Slice", ["dims", "start", "end"], ["thw"]),
        helper.make_node("Split", ["thw"], ["t", "h", "w_"], num_outputs=3),
        helper.make_node("Squeeze", ["t"], ["t0"]),
        helper.make_node("Mul", ["t0", "one"], ["t1"]),
        helper.make_node("Reshape", ["t1", "minus"], ["t2"]),
        helper.make_node("Concat", ["t2", "two", "h", "w_"], ["wanted"], axis=0),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["turned", "wanted"], ["frames"]),
        helper.make_node("Conv", ["frames", "w"], ["y"]),
    ]
    weights["minus"] = numpy_helper.from_array(np.array([-1], np.int64), "minus")
    found = counted(
        tmp_path,
        nodes,
        {"x": (1, 2, "T", "H", "W")},
        {**weights, "w": (3, 2, 3, 3)},
        y=["T", 3, "a", "b"],
    )
    assert found.uncounted == ()
    assert found.total == 2 * (4 * 3 * 2 * 2) * 18


def test_what_depends_on_values_is_named_not_guessed(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["real"], to=F),
        helper.make_node("MatMul", ["m", "real"], ["y"], name="product"),
    ]
    found = counted(tmp_path, nodes, {"x": (3, 4)}, {"m": (5, 2)}, y=[None] * 2)
    assert found.uncounted == ("product",)
    assert found.total is None


def test_a_product_in_a_branch_is_named_not_counted(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["inner"], name="in_branch")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", F, [3, 3])],
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    yes = numpy_helper.from_array(np.array(True), "yes")
    found = counted(tmp_path, [node], {"x": (3, 3)}, {"yes": yes}, y=[3, 3])
    assert found.uncounted == ("in_branch", "in_branch")


def test_local_functions_are_looked_into(tmp_path):
    function = helper.make_function(
        "local",
        "Twice",
        ["a", "m"],
        ["c"],
        [
            helper.make_node("MatMul", ["a", "m"], ["b"]),
            helper.make_node("MatMul", ["b", "m"], ["c"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    node = helper.make_node("Twice", ["x", "m"], ["y"], domain="local")
    found = counted(
        tmp_path, [node], {"x": (2, 3)}, {"m": (3, 3)}, y=[None] * 2, functions=[function]
    )
    assert found.total == 2 * 2 * (2 * 3 * 3)


def test_a_graph_without_products_has_no_total(tmp_path):
    found = counted(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)}, y=[2])
    assert (found.operations, found.uncounted, found.total) == ({}, (), None)
