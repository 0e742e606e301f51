import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from converter import model_file
from converter.errors import UserError
from converter.model_file import ALIGNMENT, DataFile
from converter.weights import BULKY_BYTES, InMemory, tensors
from tests import small_models
from tests.small_models import draw, save, save_external

MANY = BULKY_BYTES // 4
"""Floats that make a tensor bulky."""


def body(name: str, seed: int) -> onnx.GraphProto:
    """A nested graph with a bulky and a small initializer, and a bulky Constant node."""
    out = f"{name}_out"
    nodes = [
        helper.make_node("Constant", [], [f"{name}_c"], value=from_array(draw((MANY,), seed))),
        helper.make_node("Sum", [f"{name}_big", f"{name}_c"], [f"{name}_sum"]),
        helper.make_node("Add", [f"{name}_sum", f"{name}_small"], [out]),
    ]
    initializers = [
        from_array(draw((MANY,), seed + 1), f"{name}_big"),
        from_array(draw((1,), seed + 2), f"{name}_small"),
    ]
    return helper.make_graph(nodes, name, [], [small_models.value(out, [MANY])], initializers)


def holder() -> ModelProto:
    """Tensors of every kind and place: bulky and small, in the main graph, nodes and bodies."""
    strings = helper.make_tensor("strings", TensorProto.STRING, [300], [b"abc"] * 300)
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [MANY], draw((MANY,), 3))
    then, otherwise = body("then", 10), body("else", 20)
    constant = from_array(draw((MANY,), 4), "constant_value")
    return small_models.model(
        [
            helper.make_node("Constant", [], ["constant"], value=constant),
            helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
            helper.make_node("Sum", ["y", "constant", "big", "typed"], ["z"]),
            helper.make_node("Identity", ["strings"], ["s"]),
        ],
        [small_models.value("c", [], TensorProto.BOOL)],
        [small_models.value("z", [MANY]), small_models.value("s", [300], TensorProto.STRING)],
        [
            from_array(draw((MANY,), 1), "big"),
            from_array(draw((MANY - 1,), 2), "just_small"),
            from_array(draw((2, MANY), 5, np.float64), "bigger"),
            strings,
            typed,
        ],
    )


def contents(proto: ModelProto) -> dict[str, list]:
    return {t.name or f"unnamed {i}": to_array(t).tolist() for i, t in enumerate(tensors(proto))}


def rewritten(path: Path, target: Path, external: bool) -> ModelProto:
    """Load a file, write it again, and read what was written with onnx's own loader."""
    loaded = model_file.load(path)
    target.parent.mkdir(exist_ok=True)
    data = DataFile(target.with_name(f"{target.name}.data")) if external else None
    model_file.write(loaded, target, data)
    onnx.checker.check_model(str(target))
    return onnx.load(target)


def without_order(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    ordered = sorted(copy.graph.initializer, key=lambda t: t.name)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(ordered)
    return copy


def test_an_inline_model_comes_back_as_it_was(tmp_path):
    proto = holder()
    again = rewritten(save(proto, tmp_path / "a.onnx"), tmp_path / "b.onnx", external=False)
    assert without_order(again) == without_order(proto)


def test_the_skeleton_holds_no_bulky_raw_data(tmp_path):
    loaded = model_file.load(save(holder(), tmp_path / "a.onnx"))
    bulky = {t.name for t in tensors(loaded.proto) if loaded.weights.holds(t)}
    assert bulky == {"big", "bigger", "constant_value", "then_big", "else_big", ""}
    assert all(len(t.raw_data) < BULKY_BYTES for t in tensors(loaded.proto))
    assert {t.name for t in loaded.proto.graph.initializer if len(t.raw_data)} == {"just_small"}
    values = {t.name: loaded.weights.array(t) for t in tensors(loaded.proto)}
    np.testing.assert_array_equal(values["big"], draw((MANY,), 1))
    np.testing.assert_array_equal(values["bigger"], draw((2, MANY), 5, np.float64))
    np.testing.assert_array_equal(values["then_big"], draw((MANY,), 11))
    np.testing.assert_array_equal(values["constant_value"], draw((MANY,), 4))


@pytest.mark.parametrize("external", [False, True])
def test_external_data_comes_in_and_goes_out(tmp_path, external):
    proto = holder()
    path = save_external(proto, tmp_path / "a.onnx")
    loaded = model_file.load(path)
    assert loaded.external_files == (tmp_path / "weights.bin",)
    held = {t.name for t in loaded.proto.graph.initializer if loaded.weights.holds(t)}
    assert held == {"big", "bigger"}
    again = rewritten(path, tmp_path / "out" / "b.onnx", external)
    assert contents(again) == contents(without_order_of(again, proto))
    assert all(not t.external_data for t in tensors(again))


def without_order_of(like: ModelProto, proto: ModelProto) -> ModelProto:
    """`proto` with its initializers in the order of `like`."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    by_name = {t.name: t for t in proto.graph.initializer}
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(by_name[t.name] for t in like.graph.initializer)
    return copy


def test_external_tensors_lie_at_page_boundaries_and_do_not_overlap(tmp_path):
    rewritten(save(holder(), tmp_path / "a.onnx"), tmp_path / "b.onnx", external=True)
    bare = onnx.load(tmp_path / "b.onnx", load_external_data=False)
    entries = [
        {e.key: e.value for e in t.external_data} for t in bare.graph.initializer if t.external_data
    ]
    assert {e["location"] for e in entries} == {"b.onnx.data"}
    places = sorted((int(e["offset"]), int(e["length"])) for e in entries)
    assert places == [(0, 4 * MANY), (ALIGNMENT, 16 * MANY)]
    inline = {t.name for t in bare.graph.initializer if not t.external_data}
    assert inline == {"just_small", "strings", "typed"}
    assert os.path.getsize(tmp_path / "b.onnx.data") == ALIGNMENT + 16 * MANY


def test_no_data_file_is_made_where_there_is_nothing_bulky(tmp_path):
    small = small_models.model([], [], [], [from_array(np.zeros(3), "small")])
    model_file.write(
        model_file.load(save(small, tmp_path / "a.onnx")),
        tmp_path / "b.onnx",
        DataFile(tmp_path / "b.onnx.data"),
    )
    assert sorted(small_models.files(tmp_path)) == ["a.onnx", "b.onnx"]


def test_data_in_several_files_and_folders_below(tmp_path):
    (tmp_path / "below").mkdir()
    proto = small_models.two_conv3d()
    values = {t.name: to_array(t) for t in proto.graph.initializer}
    for tensor, place in zip(proto.graph.initializer, ("one.bin", "below/two.bin"), strict=True):
        (tmp_path / place).write_bytes(b"\0" * 8 + tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "8")):  # The length may be left out.
            tensor.external_data.add(key=key, value=value)
    loaded = model_file.load(save(proto, tmp_path / "a.onnx"))
    assert loaded.external_files == (tmp_path / "one.bin", tmp_path / "below" / "two.bin")
    for tensor in loaded.proto.graph.initializer:
        np.testing.assert_array_equal(loaded.weights.array(tensor), values[tensor.name])


def test_small_external_tensors_come_into_the_model_itself(tmp_path):
    proto = small_models.model([], [], [], [from_array(draw((20,)), "small")])
    loaded = model_file.load(save_external(proto, tmp_path / "a.onnx"))
    (tensor,) = loaded.proto.graph.initializer
    assert not tensor.external_data
    assert tensor.data_location == TensorProto.DEFAULT
    np.testing.assert_array_equal(to_array(tensor), draw((20,)))


def test_loading_a_file_of_inline_weights_keeps_them_out_of_memory(tmp_path):
    loaded = model_file.load(save(holder(), tmp_path / "a.onnx"))
    sources = {
        t.name: loaded.weights._source(t)
        for t in loaded.proto.graph.initializer
        if loaded.weights.holds(t)
    }
    assert sources
    assert not any(isinstance(source, InMemory) for source in sources.values())


def test_a_location_does_not_count_unless_the_data_is_said_to_be_there(tmp_path):
    proto = small_models.conv3d()
    values = [to_array(t) for t in proto.graph.initializer]
    for tensor in proto.graph.initializer:
        tensor.external_data.add(key="location", value="nowhere.bin")
    again = rewritten(save(proto, tmp_path / "a.onnx"), tmp_path / "b.onnx", external=False)
    by_name = {t.name: to_array(t) for t in again.graph.initializer}
    np.testing.assert_array_equal(by_name["w"], values[0])
    np.testing.assert_array_equal(by_name["b"], values[1])


def test_digest_is_over_the_model_and_its_data(tmp_path):
    path = save_external(small_models.two_conv3d(), tmp_path / "a.onnx")
    expected = hashlib.sha256(path.read_bytes() + (tmp_path / "weights.bin").read_bytes())
    assert model_file.digest(model_file.load(path)) == expected.hexdigest()


def test_a_link_into_a_store_with_its_data_beside_it_is_read(tmp_path):
    """As content-addressed caches keep models: links in one folder, files in another."""
    store, view = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    view.mkdir()
    save_external(small_models.conv3d(), store / "a.onnx")
    shutil.move(store / "a.onnx", store / "aaaa")
    shutil.move(store / "weights.bin", store / "bbbb")
    (view / "a.onnx").symlink_to(store / "aaaa")
    (view / "weights.bin").symlink_to(store / "bbbb")
    assert model_file.load(view / "a.onnx").external_files == (view / "weights.bin",)


def external(**entries: str) -> ModelProto:
    proto = small_models.conv3d()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return proto


NEEDED = 8 * 4 * 27 * 4

BAD_EXTERNAL = {
    "missing": (external(location="nowhere.bin"), "nowhere.bin does not exist"),
    "no location": (external(offset="0"), "does not exist"),
    "short": (external(location="short.bin"), f"needs bytes 0 to {NEEDED}, but .* is shorter"),
    "short by one": (external(location="data.bin", offset="1"), "is shorter"),
    "other length": (external(location="data.bin", length="100"), f"100 bytes .* {NEEDED}"),
    "negative": (external(location="data.bin", offset="-4"), "at offset -4"),
    "no number": (external(location="data.bin", offset="4x"), "not a number"),
    "parent": (external(location="../data.bin"), "outside the model's folder"),
    "parent within": (external(location="sub/../data.bin"), "outside the model's folder"),
    "absolute": (external(location="/etc/passwd"), "outside the model's folder"),
    "link": (external(location="link.bin"), "outside the model's folder"),
    "linked folder": (external(location="linked/data.bin"), "outside the model's folder"),
    "null byte": (external(location="a\0b"), "outside the model's folder"),
    "folder": (external(location="sub"), "does not exist"),
}


@pytest.mark.parametrize(("proto", "complaint"), BAD_EXTERNAL.values(), ids=BAD_EXTERNAL)
def test_external_data_that_is_refused(tmp_path, proto, complaint):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "sub").mkdir(parents=True)
    for place in (outside, folder, tmp_path):
        (place / "data.bin").write_bytes(bytes(NEEDED))
    (folder / "short.bin").write_bytes(bytes(NEEDED - 1))
    (folder / "link.bin").symlink_to(outside / "data.bin")
    (folder / "linked").symlink_to(outside)
    path = save(proto, folder / "a.onnx")
    with pytest.raises(UserError, match=complaint) as caught:
        model_file.load(path)
    assert str(path) in str(caught.value)


def test_an_absolute_location_is_refused_though_it_is_inside(tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(NEEDED))
    path = save(external(location=str(tmp_path / "data.bin")), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="outside the model's folder"):
        model_file.load(path)


def with_tensor(tensor: TensorProto, *, in_node: bool = False) -> ModelProto:
    if in_node:
        return small_models.model([helper.make_node("Constant", [], ["c"], value=tensor)], [], [])
    return small_models.model([], [], [], [tensor])


def tensor(**fields: object) -> TensorProto:
    return TensorProto(name="odd", **{"data_type": TensorProto.FLOAT, **fields})


BAD_TENSORS = {
    "bulky and short": tensor(dims=[400], raw_data=bytes(1500)),
    "bulky and long": tensor(dims=[400], raw_data=bytes(1700)),
    "small and short": tensor(dims=[4], raw_data=bytes(15)),
    "empty": tensor(dims=[4]),
    "too few floats": tensor(dims=[4], float_data=[1.0, 2.0]),
    "too many floats": tensor(dims=[1], float_data=[1.0, 2.0]),
    "negative size": tensor(dims=[-1], float_data=[1.0]),
    "negative sizes": tensor(dims=[-2, -2], raw_data=bytes(16)),
    "huge": tensor(dims=[2**62, 2**62], raw_data=bytes(16)),
    "unknown type": tensor(dims=[1], data_type=99, raw_data=bytes(4)),
}


@pytest.mark.parametrize("in_node", [False, True], ids=["initializer", "node"])
@pytest.mark.parametrize("bad", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_a_tensor_that_does_not_fit_its_shape_is_refused(tmp_path, bad, in_node):
    path = save(with_tensor(bad, in_node=in_node), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="'odd'"):
        model_file.load(path)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty"),
        (b"this is no model", "not an ONNX file"),
        (small_models.conv3d().SerializeToString()[:-1], "truncated"),
        (ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
        (b"\x3a\x00", "holds no graph"),
        (ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(), "opset"),
    ],
)
def test_what_is_not_a_model_is_refused(tmp_path, data, complaint):
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=complaint):
        model_file.load(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        model_file.load(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="is not a file"):
        model_file.load(tmp_path)


def test_a_file_beyond_the_limit_of_protobuf_is_refused_unread(tmp_path):
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match="over 2 GB"):
        model_file.load(path)


def test_an_invalid_graph_is_refused_with_the_checkers_reason(tmp_path):
    proto = small_models.conv3d()
    proto.graph.node[0].input[0] = "nobody"
    with pytest.raises(UserError, match=r"not a valid ONNX graph: .*nobody"):
        model_file.load(save(proto, tmp_path / "a.onnx"))


def test_names_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(small_models.conv3d().SerializeToString().replace(b"conv", b"c\xffnv"))
    with pytest.raises(UserError, match=r"name .* is not UTF-8"):
        model_file.load(path)


@pytest.mark.parametrize("nested", [False, True])
def test_values_of_an_unknown_type_are_refused(tmp_path, nested):
    proto = small_models.conv3d()
    kind = helper.make_tensor_type_proto(99, [1])
    if nested:
        kind = helper.make_optional_type_proto(helper.make_sequence_type_proto(kind))
    proto.graph.value_info.append(helper.make_value_info("odd", kind))
    with pytest.raises(UserError, match="a tensor of type 99, which ONNX does not know"):
        model_file.load(save(proto, tmp_path / "a.onnx"))


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_loaded_or_refused(tmp_path, data):
    damaged = bytearray(holder_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.onnx"
    path.write_bytes(damaged)
    with suppress(UserError):
        model_file.load(path)


def holder_bytes() -> bytes:
    """A model of which nearly every byte is structure."""
    proto = small_models.conv3d(kernel=(1, 1, 1))
    proto.graph.node.append(
        helper.make_node("Constant", [], ["c"], value=from_array(np.arange(3)), doc_string="d")
    )
    return proto.SerializeToString()


def test_a_file_cut_anywhere_is_loaded_or_refused(tmp_path):
    whole, path = holder_bytes(), tmp_path / "a.onnx"
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            model_file.load(path)


@pytest.mark.parametrize("wish", ["auto", "always", "never"])
@pytest.mark.parametrize("was_external", [False, True])
def test_where_the_weights_go(tmp_path, wish, was_external):
    save_as = save_external if was_external else save
    loaded = model_file.load(save_as(small_models.conv3d(), tmp_path / "a.onnx"))
    expected = {"auto": was_external, "always": True, "never": False}[wish]
    assert model_file.wants_external(loaded, wish) is expected


def sparse_model(tmp_path: Path, floats: int) -> model_file.Model:
    """A model of so many floats whose data file takes no room on the disk."""
    proto = small_models.model(
        [], [], [], [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[floats])]
    )
    (tensor,) = proto.graph.initializer
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * floats)
    return model_file.load(save(proto, tmp_path / "a.onnx"))


def test_two_gigabytes_do_not_go_into_one_file(tmp_path):
    loaded = sparse_model(tmp_path, 2**29)
    with pytest.raises(UserError, match=r"2\.15 GB .* --external-data"):
        model_file.wants_external(loaded, "never")


def test_auto_moves_large_weights_out(tmp_path):
    for floats, expected in ((64_000_000, False), (64_000_001, True)):
        loaded = sparse_model(tmp_path, floats)
        loaded.external_files = ()
        assert model_file.wants_external(loaded, "auto") is expected
