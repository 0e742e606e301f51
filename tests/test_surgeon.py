import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

from converter import model_file
from converter.surgeon import (
    close_model,
    default_opset,
    drop_unused,
    inline_functions_with_conv,
    open_model,
    replace_node,
    unlist_constant_inputs,
    walk,
)
from tests import small_models
from tests.small_models import VIDEO, all_nodes, draw, value


def noted(proto, text: str):
    """Mark anything that has metadata and a doc string."""
    proto.doc_string = f"doc of {text}"
    proto.metadata_props.add(key="note", value=text)
    return proto


def odd_node() -> NodeProto:
    """A node of another domain with an attribute of every type there is."""
    node = helper.make_node("Odd", ["x", "", "w"], ["odd", "", "odder"], "odd", domain="own")
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(from_array(draw((1,)), "sparse_values"))
    sparse.indices.CopyFrom(from_array(np.int64([2]), "sparse_indices"))
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])], "inner", [], [value("n", None)]
    )
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["A", 2])
    for name, given in {
        "a_float": 1.5,
        "an_int": 3,
        "a_string": "text",
        "bytes": b"\xff\x00",
        "a_tensor": from_array(draw((2,)), "attribute"),
        "a_graph": graph,
        "a_sparse_tensor": sparse,
        "a_type": kind,
        "floats": [1.5, 2.5],
        "ints": [1, 2],
        "strings": ["a", "b"],
        "tensors": [from_array(draw((2,)), "one"), from_array(draw((3,)), "two")],
        "graphs": [graph, graph],
        "sparse_tensors": [sparse],
        "type_protos": [kind],
    }.items():
        node.attribute.append(helper.make_attribute(name, given))
    node.attribute.append(helper.make_attribute("no_ints", [], attr_type=AttributeProto.INTS))
    node.attribute[0].doc_string = "doc of an attribute"
    return noted(node, "odd")


def rich() -> ModelProto:
    """A model around one Conv3D that uses what ONNX has for things other than computing."""
    proto = small_models.conv3d()
    graph = noted(proto.graph, "graph")
    noted(graph.node[0], "conv")
    noted(graph.input[0], "input")
    noted(graph.output[0], "output")
    noted(graph.initializer[0], "weights")
    graph.input[0].type.tensor_type.shape.dim[2].denotation = "DATA_FEATURE"
    graph.input[0].type.denotation = "IMAGE"
    graph.node.append(odd_node())
    inner = [
        helper.make_node("SequenceConstruct", ["y", "y"], ["pair"], "pair"),
        helper.make_node("Optional", ["pair"], ["maybe"], "maybe"),
        helper.make_node("Relu", ["y"], ["r"], "relu"),
        helper.make_node("Identity", ["limit"], ["limit_out"], "id"),
        helper.make_node("Identity", ["sparse"], ["dense"], "sparse_id"),
    ]
    graph.node.extend(noted(node, node.name) for node in inner)
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [None] * 5))
    graph.output.append(helper.make_value_info("pair", sequence))
    graph.output.append(helper.make_value_info("maybe", helper.make_optional_type_proto(sequence)))
    graph.output.append(value("limit_out", [1]))
    graph.input.append(value("limit", [1]))
    graph.initializer.append(from_array(draw((1,), 5), "limit"))  # An input with a default.
    graph.initializer.append(from_array(draw((1,), 6), "nobody_needs_it"))
    graph.initializer.append(from_array(np.float32([0.1]), "scale_of_r"))
    sparse = graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(from_array(draw((2,)), "sparse"))
    sparse.indices.CopyFrom(from_array(np.int64([0, 3]), "sparse_places"))
    graph.value_info.append(noted(value("r", [1, 8, "frames", 6, 8]), "r"))
    graph.value_info.append(value("nowhere", [7]))
    annotation = graph.quantization_annotation.add(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale_of_r")
    training = proto.training_info.add()
    training.algorithm.CopyFrom(helper.make_graph([], "train", [], []))
    training.update_binding.add(key="limit", value="limit_new")
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.functions.append(
        helper.make_function(
            "own", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], proto.opset_import
        )
    )
    proto.functions[0].metadata_props.add(key="note", value="function")
    proto.producer_name, proto.producer_version = "someone", "1"
    proto.domain, proto.model_version = "here", 7
    return noted(proto, "model")


def reopened(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    close_model(open_model(copy))
    return copy


def nested() -> ModelProto:
    """Two levels of bodies that see tensors of the levels above them."""
    deep = helper.make_graph(
        [helper.make_node("Conv", ["outer", "w"], ["deep"], "deep_conv", pads=[1] * 6)],
        "deep",
        [],
        [value("deep", None)],
        [from_array(draw((4, 4, 3, 3, 3), 7), "w")],
    )
    shallow = helper.make_graph(
        [helper.make_node("Neg", ["outer"], ["shallow"], "neg")],
        "else",
        [],
        [value("shallow", None)],
    )
    middle = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["m"], "if", then_branch=deep, else_branch=shallow),
            helper.make_node("Add", ["m", "b"], ["sum"], "add"),
        ],
        "middle",
        [],
        [value("sum", None)],
        [from_array(draw((1,), 8), "b")],
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["outer"], ["sum"], "abs")], "o", [], [value("sum", None)]
    )
    middle.value_info.append(value("m", VIDEO))
    middle.metadata_props.add(key="note", value="middle")
    return small_models.model(
        [
            helper.make_node("Relu", ["x"], ["outer"], "relu"),
            helper.make_node("If", ["c"], ["y"], "outer_if", then_branch=middle, else_branch=other),
        ],
        [value("x", VIDEO), value("c", [], TensorProto.BOOL)],
        [value("y", VIDEO)],
    )


@pytest.mark.parametrize("make", [rich, nested, small_models.two_conv3d, small_models.conv2d])
def test_what_no_rewrite_touches_stays_byte_for_byte(make):
    proto = make()
    assert reopened(proto).SerializeToString() == proto.SerializeToString()


def replace_conv(proto: ModelProto, name: str = "conv") -> None:
    """Put a MaxPool of the input, with a new constant added, where the Conv was."""
    surgery = open_model(proto)
    for graph in surgery.graphs():
        for node in list(graph.nodes):
            if node.name == name:
                x, y = node.inputs[0], node.outputs[0]
                constant = gs.Constant("new_constant", np.float32([2]))
                middle = gs.Variable("new_tensor")
                new = [
                    gs.Node("Add", "new_add", inputs=[x, constant], outputs=[middle]),
                    gs.Node("Relu", "new_relu", inputs=[middle], outputs=[y]),
                ]
                replace_node(graph, node, new)
    close_model(surgery)


def test_replacing_a_node_changes_nothing_else():
    proto, changed = rich(), rich()
    replace_conv(changed)
    assert [n.name for n in changed.graph.node][:2] == ["new_add", "new_relu"]
    assert [t.name for t in changed.graph.initializer] == [
        # "b" was the Conv's alone; "w" is the odd node's too.
        *("w", "limit", "nobody_needs_it", "scale_of_r", "new_constant"),
    ]
    for model in (proto, changed):
        kept = [n for n in model.graph.node if n.name not in ("conv", "new_add", "new_relu")]
        del model.graph.node[:]
        model.graph.node.extend(kept)
        initializers = [t for t in model.graph.initializer if t.name not in ("b", "new_constant")]
        del model.graph.initializer[:]
        model.graph.initializer.extend(initializers)
    assert changed.SerializeToString() == proto.SerializeToString()


def test_replacing_a_node_of_a_body_changes_nothing_else():
    proto, changed = nested(), nested()
    replace_conv(changed, "deep_conv")
    onnx.checker.check_model(changed)
    names = [n.name for n in all_nodes(changed.graph)]
    expected = ["relu", "outer_if", "if", "new_add", "new_relu", "neg", "add", "abs"]
    assert sorted(names) == sorted(expected)
    (deep,) = [a.g for n in all_nodes(changed.graph) for a in n.attribute if a.g.name == "deep"]
    assert not deep.initializer
    assert [t.name for t in changed.graph.initializer] == ["new_constant"]
    (before,) = [a.g for n in all_nodes(proto.graph) for a in n.attribute if a.g.name == "deep"]
    deep.CopyFrom(before)
    del changed.graph.initializer[:]
    assert changed.SerializeToString() == proto.SerializeToString()


def test_what_a_graph_says_of_a_tensor_that_is_gone_goes_too():
    proto = small_models.two_conv3d()
    proto.graph.value_info.extend([value("m", VIDEO), value("r", VIDEO)])
    for name in ("m", "r"):
        proto.graph.quantization_annotation.add(tensor_name=name)
    surgery = open_model(proto)
    graph = surgery.graph
    first, relu = graph.nodes[:2]
    pool = gs.Node(
        "MaxPool", "pool", {"kernel_shape": [1, 1, 1]}, first.inputs[:1], relu.outputs[:]
    )
    replace_node(graph, relu, [])
    replace_node(graph, first, [pool])
    close_model(surgery)
    assert [v.name for v in proto.graph.value_info] == ["r"]
    assert [q.tensor_name for q in proto.graph.quantization_annotation] == ["r"]
    assert [t.name for t in proto.graph.initializer] == ["w2"]
    onnx.checker.check_model(proto)


def test_an_initializer_that_is_an_input_stays_when_nothing_uses_it_any_more():
    proto = small_models.conv3d()
    proto.graph.input.append(value("w", [8, 4, 3, 3, 3]))
    replace_conv(proto)
    assert [t.name for t in proto.graph.initializer] == ["w", "new_constant"]


def test_an_initializer_that_is_an_input_is_no_constant():
    proto = small_models.conv3d()
    proto.graph.input.append(value("w", [8, 4, 3, 3, 3]))
    conv = open_model(proto).graph.nodes[0]
    assert isinstance(conv.inputs[1], gs.Variable)
    assert isinstance(conv.inputs[2], gs.Constant)


def test_before_ir_4_inputs_with_an_initializer_are_constants_and_no_inputs():
    proto = small_models.conv3d()
    proto.ir_version = 3
    for name, dims in (("w", [8, 4, 3, 3, 3]), ("b", [8])):
        proto.graph.input.append(value(name, dims))
    unlist_constant_inputs(proto)
    conv = open_model(proto).graph.nodes[0]
    assert all(isinstance(tensor, gs.Constant) for tensor in conv.inputs[1:])
    assert [i.name for i in proto.graph.input] == ["x"]
    assert proto.ir_version == 4


def test_shapes_are_those_of_shape_inference():
    conv, relu, _ = open_model(small_models.two_conv3d()).graph.nodes
    assert conv.outputs[0].shape == [1, 4, 3, 6, 8]
    assert relu.outputs[0].dtype == np.float32


def test_a_graph_that_contradicts_itself_is_opened_all_the_same():
    proto = small_models.conv3d()
    proto.graph.value_info.append(value("y", [1]))
    proto.graph.output[0].CopyFrom(value("y", [2, 3]))
    assert [n.name for n in open_model(proto).graph.nodes] == ["conv"]


def test_bulky_tokens_survive(tmp_path):
    loaded = model_file.load(small_models.save(small_models.conv3d(), tmp_path / "a.onnx"))
    before = loaded.proto.SerializeToString()
    close_model(open_model(loaded.proto))
    assert loaded.proto.SerializeToString() == before
    assert loaded.weights.holds(loaded.proto.graph.initializer[0])


def test_a_name_is_given_once():
    surgery = open_model(nested())
    taken = {"x", "y", "outer", "deep", "w", "deep_conv", "m", "b"}
    assert all(surgery.unique_name(name) == f"{name}_1" for name in taken)
    assert surgery.unique_name("w") == "w_2"
    assert surgery.unique_name("free") == "free"
    assert surgery.unique_name("free") == "free_1"


def test_a_name_that_only_a_value_info_has_is_taken():
    assert open_model(rich()).unique_name("nowhere") == "nowhere_1"


def test_graphs_come_outer_first():
    names = [graph.name for graph in open_model(nested()).graphs()]
    assert names[0] == "g"
    assert sorted(names[1:]) == ["deep", "else", "middle", "o"]
    assert names.index("middle") < names.index("deep")


def test_a_node_is_dropped_only_if_nothing_needs_it():
    surgery = open_model(small_models.two_conv3d())
    graph = surgery.graph
    first, relu, second = graph.nodes
    assert not drop_unused(graph, first, set())
    assert not drop_unused(graph, second, {"y"})
    assert graph.nodes == [first, relu, second]
    assert drop_unused(graph, second, set())
    assert graph.nodes == [first, relu]
    assert drop_unused(graph, relu, set())
    assert drop_unused(graph, first, set())


def test_the_default_opset_has_two_names():
    assert default_opset(small_models.conv3d(opset=13)) == 13
    proto = small_models.conv3d()
    proto.opset_import[0].domain = "ai.onnx"
    proto.opset_import.insert(0, helper.make_opsetid("own", 99))
    assert default_opset(proto) == 18


def with_functions() -> ModelProto:
    """Of four functions two reach a Conv: "holds" itself, "calls" through it."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]

    def function(name: str, *nodes: NodeProto) -> onnx.FunctionProto:
        made = helper.make_function("own", name, ["a", "k"], ["z"], list(nodes), imports)
        return noted(made, name)

    def call(name: str, output: str) -> NodeProto:
        return helper.make_node(name, ["a", "k"], [output], f"call_{name}", domain="own")

    nodes = [
        helper.make_node(name, ["x", "w"], [name], f"n_{name}", domain="own")
        for name in ("holds", "calls", "plain", "indirect")
    ]
    proto = small_models.model(
        [*nodes, helper.make_node("Sum", ["holds", "calls", "plain", "indirect"], ["y"], "sum")],
        [value("x", VIDEO)],
        [value("y", VIDEO)],
        [from_array(draw((4, 4, 3, 3, 3), 1), "w")],
        functions=[
            function("calls", call("holds", "h"), helper.make_node("Relu", ["h"], ["z"])),
            function("holds", helper.make_node("Conv", ["a", "k"], ["z"], pads=[1] * 6)),
            function("plain", helper.make_node("Neg", ["a"], ["z"])),
            function("indirect", call("plain", "z")),
        ],
    )
    return noted(proto, "model")


def test_only_functions_that_reach_a_conv_are_inlined():
    proto = with_functions()
    inline_functions_with_conv(proto)
    onnx.checker.check_model(proto)
    assert sorted(f.name for f in proto.functions) == ["indirect", "plain"]
    ops = [n.op_type for n in proto.graph.node]
    assert ops == ["Conv", "Conv", "Relu", "plain", "indirect", "Sum"]


def test_inlining_keeps_what_the_model_says_of_itself():
    proto, original = with_functions(), with_functions()
    original.producer_name = proto.producer_name = "someone"
    original.graph.doc_string = proto.graph.doc_string = "graph"
    inline_functions_with_conv(proto)
    for model in (proto, original):
        del model.functions[:]
        del model.graph.node[:]
        del model.graph.value_info[:]
    assert proto.SerializeToString() == original.SerializeToString()


def test_functions_without_a_conv_stay_as_they_were():
    proto = with_functions()
    kept = [f for f in proto.functions if f.name in ("plain", "indirect")]
    del proto.graph.node[:2]
    proto.graph.node[-1].input[:] = ["plain", "indirect"]
    del proto.functions[:]
    proto.functions.extend(kept)
    before = proto.SerializeToString()
    inline_functions_with_conv(proto)
    assert proto.SerializeToString() == before
    assert reopened(proto).SerializeToString() == before


def test_walk_sees_bodies_and_lists_of_bodies():
    ops = [n.op_type for n in walk([odd_node(), *nested().graph.node])]
    assert ops == ["Odd", "Neg", "Neg", "Neg", "Relu", "If", "Abs", "If", "Neg", "Conv", "Add"]
