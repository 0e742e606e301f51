import itertools
import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array

from converter.conv3d import (
    AutoPad,
    ConstantWeight,
    Conv3D,
    RuntimeWeight,
    Unread,
    find_conv3d,
    same_padding,
)
from converter.surgeon import open_model
from converter.weights import WeightTable
from tests import small_models
from tests.small_models import VIDEO, conv3d, draw, value


def found(proto: ModelProto) -> list[Conv3D | Unread]:
    surgery = open_model(proto)
    return find_conv3d(list(surgery.graphs()), WeightTable(), surgery.opset)


def read(proto: ModelProto) -> Conv3D:
    (conv,) = found(proto)
    assert isinstance(conv, Conv3D), conv
    return conv


def refusal(proto: ModelProto) -> str:
    (unread,) = found(proto)
    assert isinstance(unread, Unread), unread
    return str(unread.refusal)


def test_everything_of_a_plain_conv_is_read():
    conv = read(
        conv3d(
            pads=[1, 2, 3, 4, 5, 6], strides=[1, 2, 3], dilations=[3, 2, 1], kernel_shape=[3] * 3
        )
    )
    assert (conv.name, conv.x.name, conv.y.name, conv.bias.name) == ("conv", "x", "y", "b")
    assert conv.x_shape == VIDEO
    assert conv.weight_shape == (8, 4, 3, 3, 3)
    assert (conv.kernel, conv.stride, conv.dilation) == ((3, 3, 3), (1, 2, 3), (3, 2, 1))
    assert conv.time_pads == (1, 4)
    assert conv.plane_pads == (2, 3, 5, 6)
    assert conv.group == 1
    assert conv.absorbed_pad is None
    # T' = 3 + 1 + 4 - 3 * 2 = 2, H' = (6 + 2 + 5 - 5) // 2 + 1 = 5, W' = (8 + 3 + 6 - 3) // 3 + 1
    assert conv.y_shape == (1, 8, 2, 5, 5)
    assert isinstance(conv.weight, ConstantWeight)
    assert (conv.weight.root.name, conv.weight.chain) == ("w", ())
    assert conv.attributes == "k3 s1x2x3 d3x2x1 p1:4,2:5,3:6"


def test_attributes_have_their_defaults():
    proto = conv3d()
    del proto.graph.node[0].attribute[:]
    del proto.graph.node[0].input[2:]
    conv = read(proto)
    assert (conv.stride, conv.dilation, conv.group) == ((1, 1, 1), (1, 1, 1), 1)
    assert (conv.time_pads, conv.plane_pads) == ((0, 0), (0, 0, 0, 0))
    assert conv.bias is None
    assert conv.attributes == "k3 p0,0,0"


def test_a_bias_left_out_by_an_empty_name_is_no_bias():
    proto = conv3d()
    proto.graph.node[0].input[2] = ""
    assert read(proto).bias is None


def test_dynamic_sizes_keep_their_names():
    conv = read(conv3d(dims=("N", 4, "T", None, 8)))
    assert conv.x_shape == ("N", 4, "T", None, 8)
    assert (conv.y_shape[0], conv.y_shape[1], conv.y_shape[4]) == ("N", 8, 8)


@pytest.mark.parametrize("group", [2, 4])
def test_channels_follow_from_the_weights_where_the_shape_hides_them(group):
    proto = conv3d(dims=(1, None, 3, 6, 8), group=group)
    assert read(proto).x_shape == (1, 4 * group, 3, 6, 8)
    assert f"g{group}" in read(proto).attributes


def without_shapes(proto: ModelProto, *names: str) -> ModelProto:
    """Hide the rank of inputs of the Conv behind an operator that ONNX knows nothing of."""
    for name in names:
        proto.graph.node.insert(
            0, helper.make_node("Hide", [name], [f"hidden_{name}"], domain="own")
        )
        conv = next(n for n in proto.graph.node if n.op_type == "Conv")
        conv.input[list(conv.input).index(name)] = f"hidden_{name}"
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def test_the_rank_is_told_by_any_of_three():
    from_weights = read(without_shapes(conv3d(), "x"))
    assert from_weights.x_shape == (None, 4, None, None, None)
    assert from_weights.y_shape == (None, 8, None, None, None)
    from_kernel = read(without_shapes(conv3d(kernel_shape=[3, 3, 3]), "x", "w"))
    assert from_kernel.weight_shape == (None, None, 3, 3, 3)
    assert isinstance(from_kernel.weight, RuntimeWeight)
    assert from_kernel.weight.tensor.name == "hidden_w"
    from_input = read(without_shapes(conv3d(kernel_shape=[3, 3, 3]), "w"))
    assert from_input.x_shape == VIDEO


def test_convs_of_other_ranks_and_domains_are_none_of_ours():
    assert found(small_models.conv2d()) == []
    proto = conv3d()
    proto.graph.node[0].domain = "own"
    proto.opset_import.append(helper.make_opsetid("own", 1))
    assert found(proto) == []


def test_the_standard_domain_has_a_long_name_too():
    proto = conv3d()
    proto.graph.node[0].domain = "ai.onnx"
    assert read(proto).name == "conv"


def with_attribute(key: str, given: object) -> ModelProto:
    proto = conv3d()
    conv = proto.graph.node[0]
    kept = [a for a in conv.attribute if a.name != key]
    del conv.attribute[:]
    conv.attribute.extend([*kept, helper.make_attribute(key, given)])
    return proto


def referring() -> ModelProto:
    proto = conv3d()
    proto.graph.node[0].attribute.add(
        name="strides", type=onnx.AttributeProto.INTS, ref_attr_name="given"
    )
    return proto


def old() -> ModelProto:
    return conv3d(opset=10)


REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "rank": (
        lambda: without_shapes(conv3d(), "x", "w"),
        "neither the input's nor the weights' rank is known",
    ),
    "kernel": (lambda: without_shapes(conv3d(), "w"), "the kernel's size is not known"),
    "kernel differs": (
        lambda: with_attribute("kernel_shape", [3, 3, 1]),
        r"kernel_shape \(3, 3, 1\) contradicts weights of shape \(8, 4, 3, 3, 3\)",
    ),
    "empty kernel": (
        lambda: with_attribute("kernel_shape", [0, 3, 3]),
        "kernel's size is not known",
    ),
    "group 3": (
        lambda: with_attribute("group", 3),
        "8 output channels do not divide into 3 groups",
    ),
    "group 0": (lambda: with_attribute("group", 0), "do not divide into 0 groups"),
    "negative pads": (
        lambda: with_attribute("pads", [1, 1, 1, 1, 1, -1]),
        r"its pads are \[1, 1, 1, 1, 1, -1\], not 6 numbers from 0 up",
    ),
    "four pads": (lambda: with_attribute("pads", [1] * 4), "its pads are .* not 6 numbers"),
    "stride 0": (
        lambda: with_attribute("strides", [1, 0, 1]),
        "strides .* not 3 numbers from 1 up",
    ),
    "two strides": (lambda: with_attribute("strides", [1, 1]), "strides .* not 3 numbers"),
    "dilation 0": (lambda: with_attribute("dilations", [0, 1, 1]), "dilations .* not 3 numbers"),
    "auto_pad": (
        lambda: with_attribute("auto_pad", "SAME"),
        "auto_pad 'SAME' is not an ONNX value",
    ),
    "reference": (referring, "its attribute 'strides' refers to an attribute of a local function"),
    "opset": (old, "the graph stays at opset 10, and a rewrite needs 11"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_name_and_reason(make, reason):
    assert re.search(f"^conv: .*{reason}", refusal(make()))


def test_nodes_without_a_name_or_with_one_name_are_called_by_their_outputs():
    proto = small_models.two_conv3d()
    proto.graph.node[0].name = ""
    assert [item.name for item in found(proto)] == ["m", "second"]
    proto.graph.node[0].name = "second"
    assert [item.name for item in found(proto)] == ["second", "y"]


def test_bodies_are_searched_after_the_graph_that_holds_them():
    body = helper.make_graph(
        [helper.make_node("Conv", ["r", "w2"], ["inner"], "inside")],
        "body",
        [],
        [value("inner", None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["other"])], "other", [], [value("other", None)]
    )
    proto = small_models.two_conv3d()
    branches = {"then_branch": body, "else_branch": other}
    proto.graph.node.insert(2, helper.make_node("If", ["c"], ["z"], **branches))
    proto.graph.input.append(value("c", [], TensorProto.BOOL))
    assert [item.name for item in found(proto)] == ["first", "second", "inside"]
    assert found(proto)[2].graph.name == "body"


# --- where the weights come from ----------------------------------------------------------------


def with_weights(*nodes: onnx.NodeProto, **tensors: np.ndarray) -> ModelProto:
    """A Conv3D of the tensor "w" that `nodes` make of initializers."""
    proto = conv3d()
    proto.graph.initializer.pop(0)
    proto.graph.initializer.extend(from_array(t, name) for name, t in tensors.items())
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    return proto


WEIGHTS = draw((8, 4, 3, 3, 3))
QUANTIZED = (WEIGHTS * 30).astype(np.int8)
SCALES, ZEROS = np.full(8, 0.1, np.float32), np.zeros(8, np.int8)


def test_weights_of_a_constant_node_are_constant():
    constant = helper.make_node("Constant", [], ["w"], value=from_array(WEIGHTS, "inside"))
    conv = read(with_weights(constant))
    assert isinstance(conv.weight, ConstantWeight)
    assert conv.weight.root.name == "w"
    assert conv.weight_shape == (8, 4, 3, 3, 3)


def test_elementwise_nodes_before_the_weights_are_followed():
    nodes = [
        helper.make_node("Cast", ["w16"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["c"], ["w"]),
    ]
    conv = read(with_weights(*nodes, w16=WEIGHTS.astype(np.float16)))
    assert isinstance(conv.weight, ConstantWeight)
    assert conv.weight.root.name == "w16"
    assert [node.op for node in conv.weight.chain] == ["Cast", "Identity"]


@pytest.mark.parametrize(
    ("attributes", "scale", "follows"),
    [
        ({"axis": 0}, SCALES, True),
        ({"axis": -5}, SCALES, True),
        ({}, np.float32(0.1), True),
        ({"axis": 1}, np.float32(0.1), True),
        ({"axis": 1}, np.full(4, 0.1, np.float32), False),
        ({}, np.full(4, 0.1, np.float32), False),
        ({"axis": 4}, np.full(3, 0.1, np.float32), False),
        ({"axis": 0, "block_size": 4}, np.full((2, 4, 3, 3, 3), 0.1, np.float32), False),
    ],
)
def test_dequantization_is_followed_where_it_goes_by_output_channel(attributes, scale, follows):
    zero = np.zeros(np.shape(scale), np.int8)
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], **attributes)
    proto = with_weights(node, q=QUANTIZED, s=np.asarray(scale), z=zero)
    proto.opset_import[0].version = 21
    assert isinstance(read(proto).weight, ConstantWeight) is follows


@pytest.mark.parametrize("node", ["Transpose", "Neg"])
def test_other_nodes_make_weights_of_the_run_time(node):
    attributes = {"perm": [0, 1, 2, 4, 3]} if node == "Transpose" else {}
    proto = with_weights(helper.make_node(node, ["v"], ["w"], **attributes), v=WEIGHTS)
    conv = read(proto)
    assert isinstance(conv.weight, RuntimeWeight)
    assert conv.weight.tensor.name == "w"
    assert conv.weight_shape == (8, 4, 3, 3, 3)


# --- padding ------------------------------------------------------------------------------------


def padded(
    amounts: list[int], *more: np.ndarray | None, conv_pads: int = 0, **attributes: object
) -> ModelProto:
    """A Pad with these further inputs in front of the Conv."""
    proto = conv3d(pads=[conv_pads] * 6)
    inputs = ["x", "amounts", *(f"more{i}" if m is not None else "" for i, m in enumerate(more))]
    proto.graph.node.insert(0, helper.make_node("Pad", inputs, ["padded"], "pad", **attributes))
    proto.graph.node[1].input[0] = "padded"
    proto.graph.initializer.append(from_array(np.array(amounts, np.int64), "amounts"))
    for index, tensor in enumerate(more):
        if tensor is not None:
            proto.graph.initializer.append(from_array(tensor, f"more{index}"))
    return proto


CAUSAL = [0, 0, 2, 1, 1, 0, 0, 0, 1, 1]
ZERO, AXES = np.float32(0), np.array([2, -1], np.int64)


@pytest.mark.parametrize(
    ("proto", "time", "plane"),
    [
        (padded(CAUSAL), (2, 0), (1, 1, 1, 1)),
        (padded(CAUSAL, ZERO), (2, 0), (1, 1, 1, 1)),
        (padded(CAUSAL, np.float32(-0.0), mode="constant"), (2, 0), (1, 1, 1, 1)),
        (padded(CAUSAL, conv_pads=1), (3, 1), (2, 2, 2, 2)),
        (padded([2, 1, 0, 3], None, AXES), (2, 0), (0, 1, 0, 3)),
        (padded([1, 0], ZERO, np.array([-3], np.int64)), (1, 0), (0, 0, 0, 0)),
    ],
)
def test_a_pad_of_zeros_is_absorbed(proto, time, plane):
    conv = read(proto)
    assert conv.absorbed_pad.name == "pad"
    assert conv.x.name == "x"
    assert conv.x_shape == VIDEO
    assert (conv.time_pads, conv.plane_pads) == (time, plane)


def output_too() -> ModelProto:
    proto = padded(CAUSAL)
    proto.graph.output.append(value("padded", [None] * 5))
    return proto


def read_twice() -> ModelProto:
    proto = padded(CAUSAL)
    proto.graph.node.append(helper.make_node("Neg", ["padded"], ["z"]))
    return proto


def read_in_a_body() -> ModelProto:
    def body(name: str) -> onnx.GraphProto:
        node = helper.make_node("Neg", ["padded"], [name])
        return helper.make_graph([node], name, [], [value(name, None)])

    proto = padded(CAUSAL)
    branches = {"then_branch": body("a"), "else_branch": body("b")}
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], **branches))
    proto.graph.input.append(value("c", [], TensorProto.BOOL))
    return proto


def amounts_at_run_time() -> ModelProto:
    proto = padded(CAUSAL)
    proto.graph.initializer.pop()
    proto.graph.input.append(value("amounts", [10], TensorProto.INT64))
    return proto


def value_at_run_time() -> ModelProto:
    proto = padded(CAUSAL, ZERO)
    proto.graph.initializer.pop()
    proto.graph.input.append(value("more0", []))
    return proto


NOT_ABSORBED: dict[str, Callable[[], ModelProto]] = {
    "a value": lambda: padded(CAUSAL, np.float32(1)),
    "NaN": lambda: padded(CAUSAL, np.float32("nan")),
    "edge": lambda: padded(CAUSAL, mode="edge"),
    "reflect": lambda: padded(CAUSAL, mode="reflect"),
    "negative": lambda: padded([0, 0, 0, 0, 0, 0, 0, -1, 0, 0]),
    "batch": lambda: padded([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    "channels": lambda: padded([0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
    "channels by axis": lambda: padded([1, 0], None, np.array([-4], np.int64)),
    "wrong length": lambda: padded([0] * 8),
    "amounts at run time": amounts_at_run_time,
    "value at run time": value_at_run_time,
    "output": output_too,
    "read twice": read_twice,
    "read in a body": read_in_a_body,
}


@pytest.mark.parametrize("make", NOT_ABSORBED.values(), ids=NOT_ABSORBED)
def test_any_other_pad_stays(make):
    conv = read(make())
    assert conv.absorbed_pad is None
    assert conv.x.name == "padded"
    assert (conv.time_pads, conv.plane_pads) == ((0, 0), (0, 0, 0, 0))


def test_a_pad_before_same_padding_stays():
    proto = padded(CAUSAL)
    conv = next(n for n in proto.graph.node if n.op_type == "Conv")
    del conv.attribute[:]
    conv.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    assert read(proto).absorbed_pad is None


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_same_padding_is_the_least_that_gives_the_size_divided_by_the_stride(mode):
    for size, kernel, stride, dilation in itertools.product(
        range(1, 12), range(1, 8), range(1, 5), range(1, 4)
    ):
        begin, end = same_padding(size, kernel, stride, dilation, mode)
        reach = (kernel - 1) * dilation + 1
        wanted = -(-size // stride)

        def outputs(padding: int, size=size, reach=reach, stride=stride) -> int:
            room = size + padding - reach
            return room // stride + 1 if room >= 0 else 0

        assert outputs(begin + end) >= wanted
        assert begin + end == 0 or outputs(begin + end - 1) < wanted
        more, less = (end, begin) if mode == "SAME_UPPER" else (begin, end)
        assert more - less in (0, 1)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_the_table_of_same_pads_goes_by_the_remainder(mode):
    for kernel, stride, dilation in itertools.product(range(1, 8), range(1, 5), range(1, 4)):
        table = AutoPad(mode).table(kernel, stride, dilation)
        assert len(table) == stride
        for size in range(1, 30):
            assert table[size % stride] == same_padding(size, kernel, stride, dilation, mode)


def same(dims: tuple[int | str, ...], strides: list[int], mode: str = "SAME_UPPER") -> Conv3D:
    proto = conv3d(dims=dims, strides=strides)
    kept = [a for a in proto.graph.node[0].attribute if a.name != "pads"]
    del proto.graph.node[0].attribute[:]
    proto.graph.node[0].attribute.extend([*kept, helper.make_attribute("auto_pad", mode)])
    return read(proto)


def test_same_pads_are_known_where_the_sizes_are():
    conv = same((1, 4, 4, 6, 8), [2, 1, 1])
    assert (conv.time_pads, conv.plane_pads) == ((0, 1), (1, 1, 1, 1))
    lower = same((1, 4, 4, 6, 8), [2, 1, 1], "SAME_LOWER")
    assert (lower.time_pads, lower.plane_pads) == ((1, 0), (1, 1, 1, 1))
    assert conv.attributes == "k3 s2x1x1 p0:1,1,1"


def test_same_pads_with_stride_1_need_no_size():
    conv = same(("N", 4, "T", "H", "W"), [1, 1, 1])
    assert (conv.time_pads, conv.plane_pads) == ((1, 1), (1, 1, 1, 1))


def test_same_pads_of_a_dynamic_size_with_a_stride_are_left_to_the_run():
    time = same((1, 4, "T", 6, 8), [2, 1, 1])
    assert time.time_pads == AutoPad("SAME_UPPER")
    assert time.plane_pads == (1, 1, 1, 1)
    plane = same((1, 4, 3, 6, "W"), [1, 1, 2], "SAME_LOWER")
    assert plane.time_pads == (1, 1)
    assert plane.plane_pads == AutoPad("SAME_LOWER")
    assert plane.attributes == "k3 s1x1x2 SAME_LOWER"


def test_valid_means_no_padding_whatever_pads_say():
    proto = with_attribute("auto_pad", "VALID")
    conv = read(proto)
    assert (conv.time_pads, conv.plane_pads) == ((0, 0), (0, 0, 0, 0))
