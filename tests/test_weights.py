import numpy as np
import onnx
import onnx.helper
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from converter.errors import UserError
from converter.weights import (
    Computed,
    InFile,
    InMemory,
    WeightTable,
    element_bits,
    tensor_bytes,
    tensors,
)
from tests import small_models

WITH_RAW_FORM = sorted(
    set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING}
)


@pytest.mark.parametrize("elem_type", WITH_RAW_FORM, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("shape", [(), (0,), (3, 3), (2, 5)])
def test_sizes_are_those_of_onnx(elem_type, shape):
    zeros = np.zeros(shape, helper.tensor_dtype_to_np_dtype(elem_type))
    tensor = from_array(zeros)
    assert tensor.data_type == elem_type
    assert tensor_bytes(tensor) == len(tensor.raw_data)


def test_packed_types_count_in_bits():
    assert element_bits(TensorProto.FLOAT) == 32
    assert element_bits(TensorProto.INT4) == element_bits(TensorProto.UINT4) == 4
    assert element_bits(TensorProto.INT2) == 2
    assert tensor_bytes(TensorProto(data_type=TensorProto.UINT2, dims=[5])) == 2


def test_strings_have_no_raw_form():
    assert tensor_bytes(helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"bc"])) == 0


def array_tensor(values: np.ndarray) -> TensorProto:
    return from_array(values, "w")


def test_a_token_keeps_name_shape_and_type_and_no_data():
    values = small_models.draw((3, 2))
    tensor = array_tensor(values)
    tensor.doc_string = "kept"
    table = WeightTable()
    assert not table.holds(tensor)
    table.put(tensor, InMemory(tensor.raw_data))
    assert table.holds(tensor)
    assert (tensor.name, list(tensor.dims), tensor.data_type) == ("w", [3, 2], TensorProto.FLOAT)
    assert tensor.doc_string == "kept"
    assert not tensor.raw_data
    assert table.read(tensor) == values.tobytes()
    np.testing.assert_array_equal(table.array(tensor), values)


@pytest.mark.parametrize(
    ("elem_type", "field"),
    [
        (TensorProto.FLOAT, "float_data"),
        (TensorProto.INT8, "int32_data"),
        (TensorProto.INT64, "int64_data"),
        (TensorProto.DOUBLE, "double_data"),
        (TensorProto.UINT64, "uint64_data"),
    ],
)
def test_a_token_keeps_no_typed_data_either(elem_type, field):
    tensor = helper.make_tensor("w", elem_type, [2], [1, 2])
    assert list(getattr(tensor, field)) == [1, 2]
    WeightTable().put(tensor, InMemory(b""))
    assert not getattr(tensor, field)


def test_tokens_of_one_table_are_told_apart_also_as_copies():
    table = WeightTable()
    tokens = []
    for number in range(3):
        tensor = array_tensor(np.full((2,), number, np.int64))
        table.put(tensor, InMemory(tensor.raw_data))
        copy = TensorProto()
        copy.CopyFrom(tensor)
        tokens.append(copy)
    assert [int(table.array(token)[0]) for token in tokens] == [0, 1, 2]


def test_external_data_proper_is_not_a_token():
    tensor = TensorProto(data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    assert not WeightTable().holds(tensor)


def test_data_in_a_file_is_read_at_its_offset_each_time(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"head" + np.arange(3, dtype=np.int32).tobytes() + b"tail")
    table, tensor = WeightTable(), array_tensor(np.zeros(3, np.int32))
    table.put(tensor, InFile(file, 4, 12))
    assert table.array(tensor).tolist() == [0, 1, 2]
    file.write_bytes(b"head" + np.arange(7, 10, dtype=np.int32).tobytes())
    assert table.array(tensor).tolist() == [7, 8, 9]


def test_a_file_that_became_shorter_is_noticed(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"12345")
    with pytest.raises(UserError, match="shorter"):
        InFile(file, 2, 4).read()


def test_computed_data_is_made_when_asked_for_and_written_in_row_major_order():
    made = []

    def compute() -> np.ndarray:
        made.append(1)
        return np.arange(6, dtype=np.float32).reshape(2, 3).T

    table, tensor = WeightTable(), array_tensor(np.zeros((3, 2), np.float32))
    table.put(tensor, Computed(compute))
    assert not made
    assert np.frombuffer(table.read(tensor), np.float32).tolist() == [0, 3, 1, 4, 2, 5]
    assert table.array(tensor).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert len(made) == 2


def test_values_that_are_no_token_are_read_from_the_tensor():
    assert WeightTable().array(array_tensor(np.arange(4))).tolist() == [0, 1, 2, 3]


def test_every_tensor_of_a_model_is_found():
    def constant(name: str) -> onnx.NodeProto:
        tensor = from_array(np.zeros(1, np.float32), name)
        return helper.make_node("Constant", [], [name], value=tensor)

    def body(name: str) -> onnx.GraphProto:
        initializer = from_array(np.zeros(1, np.float32), f"{name}_initializer")
        return helper.make_graph(
            [constant(name)], name, [], [small_models.value(name, [1])], [initializer]
        )

    proto = small_models.model(
        [
            constant("outer"),
            helper.make_node(
                "If", ["c"], ["y"], then_branch=body("then"), else_branch=body("else")
            ),
            helper.make_node(
                "Listing",
                [],
                ["z"],
                domain="own",
                tensors=[from_array(np.zeros(1), "t1"), from_array(np.zeros(1), "t2")],
                graphs=[body("g1"), body("g2")],
            ),
        ],
        [],
        [],
        [from_array(np.zeros(1), "main")],
        functions=[helper.make_function("own", "f", [], ["f"], [constant("f")], [])],
    )
    found = [tensor.name for tensor in tensors(proto)]
    bodies = [
        f"{name}{part}" for name in ("then", "else", "g1", "g2") for part in ("", "_initializer")
    ]
    assert sorted(found) == sorted(["main", "outer", "t1", "t2", "f", *bodies])


def test_an_attribute_that_a_function_is_to_be_given_is_not_a_tensor():
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, ref_attr_name="given")
    proto = small_models.model(
        [], [], [], functions=[helper.make_function("own", "f", [], ["c"], [node], [], ["given"])]
    )
    assert list(tensors(proto)) == []


def test_what_is_found_can_be_changed_in_place():
    proto = small_models.conv2d()
    for tensor in tensors(proto):
        tensor.CopyFrom(from_array(np.ones((8, 8, 3, 3), np.float32), tensor.name))
    assert to_array(proto.graph.initializer[0]).min() == 1
