import io

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array

from converter.wire import Bulky, WireError, split, write_model
from tests import small_models

THRESHOLD = 16


@st.composite
def tensor_protos(draw, name: str) -> TensorProto:
    kind = draw(st.sampled_from(["raw", "typed", "strings", "external", "empty"]))
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT)
    if kind == "raw":
        tensor.raw_data = draw(st.binary(max_size=2 * THRESHOLD))
        tensor.dims.append(len(tensor.raw_data))
    elif kind == "typed":
        tensor.float_data.extend(draw(st.lists(st.floats(width=32), max_size=9)))
    elif kind == "strings":
        tensor.data_type = TensorProto.STRING
        tensor.string_data.extend(draw(st.lists(st.binary(max_size=30), max_size=3)))
    elif kind == "external":
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="file")
    else:
        tensor.Clear()
    tensor.doc_string = draw(st.sampled_from(["", "a", "b" * 300]))
    return tensor


@st.composite
def models(draw) -> ModelProto:
    proto = ModelProto(ir_version=draw(st.integers(0, 2**62)))
    proto.producer_name = draw(st.text(max_size=200))
    if draw(st.booleans()):
        proto.metadata_props.add(key="k", value="v" * draw(st.integers(0, 300)))
    for index in range(draw(st.integers(0, 3))):
        node = proto.graph.node.add(op_type="Constant", output=[f"c{index}"])
        attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        attribute.t.CopyFrom(draw(tensor_protos(f"c{index}")))
        attribute.floats.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    for index in range(draw(st.integers(0, 5))):
        proto.graph.initializer.append(draw(tensor_protos(f"w{index}")))
    if draw(st.booleans()):
        proto.functions.add(name="f", domain="d").node.add(op_type="Identity")
    return proto


def put_back(data: bytes, threshold: int = THRESHOLD) -> ModelProto:
    """What `split` gives, with every span filled in again."""
    skeleton, spans = split(memoryview(data), threshold)
    proto = ModelProto.FromString(skeleton)
    assert len(spans) == len(proto.graph.initializer)
    for tensor, span in zip(proto.graph.initializer, spans, strict=True):
        assert len(tensor.raw_data) < threshold
        if span is not None:
            assert span[1] >= threshold
            tensor.raw_data = data[span[0] : span[0] + span[1]]
    return proto


def serialized(proto: ModelProto) -> bytes:
    """NaN differs from itself, so models are compared by their bytes."""
    return proto.SerializeToString(deterministic=True)


@settings(max_examples=200)
@given(models())
def test_split_loses_nothing(proto):
    assert serialized(put_back(proto.SerializeToString())) == serialized(proto)


@settings(max_examples=200)
@given(models())
def test_what_is_written_is_the_model_with_the_bulky_initializers_last(proto):
    small = ModelProto()
    small.CopyFrom(proto)
    del small.graph.initializer[:]
    bulky = []
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) < THRESHOLD:
            small.graph.initializer.append(tensor)
            continue
        bare = TensorProto()
        bare.CopyFrom(tensor)
        bare.ClearField("raw_data")
        bulky.append(Bulky(bare, len(tensor.raw_data), lambda data=tensor.raw_data: data))
    file = io.BytesIO()
    write_model(file, small, bulky)
    expected = ModelProto()
    expected.CopyFrom(proto)
    initializers = sorted(proto.graph.initializer, key=lambda t: len(t.raw_data) >= THRESHOLD)
    del expected.graph.initializer[:]
    expected.graph.initializer.extend(initializers)
    expected.graph.SetInParent()
    assert serialized(ModelProto.FromString(file.getvalue())) == serialized(expected)


def test_only_data_of_at_least_the_threshold_is_cut():
    proto = small_models.model(
        [], [], [], [from_array(np.zeros(n, np.uint8), str(n)) for n in (15, 16, 17)]
    )
    data = proto.SerializeToString()
    _, spans = split(memoryview(data), 16)
    assert [span and span[1] for span in spans] == [None, 16, 17]


def test_a_graph_in_two_parts_is_one_graph():
    first, second = ModelProto(), ModelProto()
    first.graph.name = "first"
    first.graph.initializer.append(from_array(np.arange(40, dtype=np.uint8), "a"))
    second.graph.initializer.append(from_array(np.arange(50, dtype=np.uint8), "b"))
    second.graph.name = "second"
    data = first.SerializeToString() + second.SerializeToString()
    proto = put_back(data)
    assert serialized(proto) == serialized(ModelProto.FromString(data))
    assert [t.name for t in proto.graph.initializer] == ["a", "b"]


@pytest.mark.parametrize("sizes", [(40, 2), (2, 40), (40, 50)])
def test_of_data_given_twice_the_last_counts(sizes):
    fields = [TensorProto(raw_data=bytes([size]) * size).SerializeToString() for size in sizes]
    tensor = b"".join(fields)
    graph = bytes([5 << 3 | 2, len(tensor)]) + tensor
    data = bytes([7 << 3 | 2, len(graph)]) + graph
    assert serialized(put_back(data)) == serialized(ModelProto.FromString(data))


def parsed(data: bytes) -> bytes | None:
    try:
        return serialized(ModelProto.FromString(data))
    except DecodeError:
        return None


def accepted(data: bytes) -> bytes | None:
    try:
        return serialized(put_back(data))
    except (WireError, DecodeError):
        return None


def test_a_file_cut_anywhere_is_read_just_as_protobuf_reads_it():
    proto = small_models.two_conv3d()
    proto.metadata_props.add(key="k", value="v")
    proto.graph.node.append(helper.make_node("Neg", ["y"], ["z"], doc_string="d" * 200))
    data = proto.SerializeToString()
    assert accepted(data) is not None
    for end in range(len(data)):
        assert accepted(data[:end]) == parsed(data[:end]), end


@settings(max_examples=500)
@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read_as_protobuf_reads_it(data):
    read = accepted(data)
    assert read is None or read == parsed(data)


@settings(max_examples=500)
@given(st.data())
def test_damage_is_refused_or_read_as_protobuf_reads_it(data):
    damaged = bytearray(small_models.conv2d().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(damaged) - 1, 200)))
        damaged[place] = data.draw(st.integers(0, 255))
    read = accepted(bytes(damaged))
    assert read is None or read == parsed(bytes(damaged))


ELEVEN_BYTES = b"\x88" + b"\x80" * 9 + b"\x01"
"""A number of more than 64 bits."""

NO_PROTOBUF = {
    "number too long": ELEVEN_BYTES + b"\x00",
    "number without an end": b"\xff" * 12,
    "number cut": b"\x80",
    "group": b"\x0b\x0c",
    "unknown kind": b"\x0f",
    "four bytes cut": b"\x0d\x00",
    "eight bytes cut": b"\x09",
}


@pytest.mark.parametrize("data", NO_PROTOBUF.values(), ids=NO_PROTOBUF)
def test_what_is_not_protobuf_is_refused(data):
    with pytest.raises(WireError):
        split(memoryview(data), 16)


def test_data_of_another_size_than_announced_is_not_written():
    wrong = Bulky(TensorProto(name="w"), 8, lambda: b"1234")
    with pytest.raises(AssertionError, match="size"):
        write_model(io.BytesIO(), ModelProto(), [wrong])
