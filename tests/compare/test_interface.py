import pytest
from onnx import TensorProto, helper

from converter.compare.interface import (
    Interface,
    TensorSpec,
    check_same,
    load_skeleton,
    read_interface,
    show_shape,
)
from converter.errors import UserError
from tests.compare.graphs import conv3d, model, save

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def of(*dims, name="x", elem_type=F32):
    return TensorSpec(name, elem_type, dims)


def test_reads_sizes_symbols_and_unknowns():
    found = read_interface(conv3d(dims=["N", 2, None, -1, 8]), "m.onnx")
    assert found.inputs == (of("N", 2, None, None, 8),)
    assert found.outputs == (TensorSpec("y", F32, None),)


def test_inputs_with_an_initializer_are_left_out():
    graph = conv3d()
    graph.graph.input.append(helper.make_tensor_value_info("w", F32, [3, 2, 3, 3, 3]))
    assert [spec.name for spec in read_interface(graph, "m.onnx").inputs] == ["x"]


def test_strings_and_sequences_are_refused():
    text = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, [1])],
        [("y", TensorProto.STRING, [1])],
    )
    with pytest.raises(UserError, match=r"m\.onnx: x is not a tensor of numbers"):
        read_interface(text, "m.onnx")
    sequence = conv3d()
    sequence.graph.output[0].type.CopyFrom(
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(F32, None))
    )
    with pytest.raises(UserError, match=r"m\.onnx: y is not a tensor of numbers"):
        read_interface(sequence, "m.onnx")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (of(1, 2), of(1, 2)),
        (of("T", 2), of("frames", 2)),
        (of("T", 2), of(None, 2)),
        (TensorSpec("x", F32, None), TensorSpec("x", F32, None)),
    ],
)
def test_equal_inputs(before, after):
    check_same(Interface((before,), ()), Interface((after,), ()))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (of(1, 2), of(1, 2, name="z"), "x in the reference, z in the candidate"),
        (of(1, 2), of(1, 2, elem_type=F16), "x float 1x2 in the reference, x float16 1x2"),
        (of(1, 2), of(1, 2, 3), "x float 1x2 in the reference, x float 1x2x3"),
        (of(1, 2), of(1, 3), "x float 1x2 in the reference, x float 1x3"),
        (of("T", 2), of(1, 2), "x float Tx2 in the reference, x float 1x2"),
        (of(1, 2), of(None, 2), "x float 1x2 in the reference, x float ?x2"),
        (of(1), TensorSpec("x", F32, None), "x float of unknown rank in the candidate"),
    ],
)
def test_different_inputs_are_named(before, after, words):
    with pytest.raises(UserError, match="different inputs") as caught:
        check_same(Interface((before,), ()), Interface((after,), ()))
    assert words in str(caught.value)


def test_another_order_or_number_is_different():
    a, b = of(1, name="a"), of(1, name="b")
    for other in ((b, a), (a,), ()):
        with pytest.raises(UserError, match="different outputs: a, b in the reference"):
            check_same(Interface((), (a, b)), Interface((), other))


@pytest.mark.parametrize("after", [of("T", 3), of(4, 3), TensorSpec("x", F32, None)])
def test_outputs_may_be_stated_more_or_less_precisely(after):
    check_same(Interface((), (of(None, 3),)), Interface((), (after,)))


@pytest.mark.parametrize("after", [of("T", 4), of(1, 3, 1), of("T", 3, elem_type=F16)])
def test_outputs_may_not_contradict(after):
    with pytest.raises(UserError, match="different outputs"):
        check_same(Interface((), (of("T", 3),)), Interface((), (after,)))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.onnx cannot be read: No such file"):
        load_skeleton(tmp_path / "none.onnx")
    path = save(conv3d(), tmp_path / "cut.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.onnx is not an ONNX model, or is cut short"):
        load_skeleton(path)


def test_show_shape():
    assert show_shape((1, "T", None)) == "1xTx?"
    assert show_shape(()) == "scalar"
