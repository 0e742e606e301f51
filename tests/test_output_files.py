import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from converter import model_file, output_files
from converter.errors import UserError
from converter.output_files import (
    check_writable,
    pending_output,
    refuse_to_replace,
    write_text,
)
from tests import small_models
from tests.small_models import files, save, save_external


def put(source: Path, output: Path, external: bool) -> None:
    """What a conversion does with its files, less the conversion."""
    loaded = model_file.load(source)
    with pending_output(output, source) as pending:
        pending.write(loaded, external)
        pending.commit()


def weights(path: Path) -> list[np.ndarray]:
    return [to_array(t) for t in sorted(onnx.load(path).graph.initializer, key=lambda t: t.name)]


def assert_same_weights(path: Path, proto: onnx.ModelProto) -> None:
    expected = sorted(proto.graph.initializer, key=lambda t: t.name)
    for left, right in zip(weights(path), expected, strict=True):
        np.testing.assert_array_equal(left, to_array(right))


def test_committed_files_appear_and_nothing_else(tmp_path):
    source = save(small_models.conv3d(), tmp_path / "in.onnx")
    before = source.read_bytes()
    put(source, tmp_path / "out.onnx", external=True)
    assert sorted(files(tmp_path)) == ["in.onnx", "out.onnx", "out.onnx.data"]
    assert source.read_bytes() == before
    assert_same_weights(tmp_path / "out.onnx", small_models.conv3d())
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_what_is_not_committed_leaves_no_trace(tmp_path):
    source = save(small_models.conv3d(), tmp_path / "in.onnx")
    before = files(tmp_path)
    with pending_output(tmp_path / "out.onnx", source) as pending:
        pending.write(model_file.load(source), external=True)
        sizes = sum(p.stat().st_size for p in (pending.model_path, pending.data_path))
        assert pending.file_bytes() == sizes
        assert pending.model_path.parent.parent == tmp_path  # Renaming needs the same file system.
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == ["in.onnx"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_within_leaves_no_trace(tmp_path, error):
    source = save(small_models.conv3d(), tmp_path / "in.onnx")

    def fail() -> None:
        with pending_output(tmp_path / "out.onnx", source) as pending:
            pending.write(model_file.load(source), external=True)
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == ["in.onnx"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [0, 1], ids=["data", "model"])
@pytest.mark.parametrize("moved", [False, True], ids=["before", "behind"])
def test_an_error_while_renaming_leaves_all_of_the_old_or_all_of_the_new(
    tmp_path, monkeypatch, error, call, moved
):
    source = save(small_models.conv3d(), tmp_path / "in.onnx")
    old = save_external(small_models.two_conv3d(), tmp_path / "out.onnx", "out.onnx.data")
    before = files(tmp_path)
    rename, calls = os.replace, []

    def interrupted(src: Path, dst: Path) -> None:
        calls.append(dst)
        if len(calls) == call + 1 and not moved:
            raise error
        rename(src, dst)
        if len(calls) == call + 1:
            raise error

    monkeypatch.setattr(output_files.os, "replace", interrupted)
    with pytest.raises(error):
        put(source, old, external=True)
    if call == 1 and moved:  # The new model stands; its old data may stay behind.
        assert_same_weights(old, small_models.conv3d())
    else:
        assert files(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize("was_external", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_a_model_is_replaced_with_its_own_data_file(tmp_path, was_external, external):
    save_as = save_external if was_external else save
    arguments = ["out.onnx.data"] if was_external else []
    save_as(small_models.two_conv3d(), tmp_path / "out.onnx", *arguments)
    source = save(small_models.conv3d(), tmp_path / "in.onnx")
    put(source, tmp_path / "out.onnx", external)
    assert_same_weights(tmp_path / "out.onnx", small_models.conv3d())
    names = set(files(tmp_path)) - {"in.onnx", "out.onnx"}
    data = "out.onnx.1.data" if was_external else "out.onnx.data"
    assert names == ({data} if external else set())


@pytest.mark.parametrize("external", [False, True])
def test_a_model_is_rewritten_in_place_again_and_again(tmp_path, external):
    path = save_external(small_models.two_conv3d(), tmp_path / "a.onnx", "a.onnx.data")
    for _ in range(3):
        put(path, path, external)
        assert_same_weights(path, small_models.two_conv3d())
        assert len(files(tmp_path)) == (2 if external else 1)


@pytest.mark.parametrize("name", ["weights.bin", "weights.data", "a.onnx.bin", "b.onnx.data"])
def test_data_files_of_another_name_stay(tmp_path, name):
    path = save_external(small_models.two_conv3d(), tmp_path / "a.onnx", name)
    put(path, path, external=False)
    assert sorted(files(tmp_path)) == sorted(["a.onnx", name])


def test_data_that_another_model_shares_stays(tmp_path):
    """Two graphs of one decoder may have one data file."""
    first = save_external(small_models.two_conv3d(), tmp_path / "a.onnx", "a.onnx.data")
    (tmp_path / "next.onnx").write_bytes(first.read_bytes())
    put(first, first, external=True)
    assert_same_weights(first, small_models.two_conv3d())
    assert_same_weights(tmp_path / "next.onnx", small_models.two_conv3d())


def test_data_of_the_input_stays_though_it_carries_the_outputs_name(tmp_path):
    (tmp_path / "sub").mkdir()
    output = save_external(small_models.two_conv3d(), tmp_path / "sub" / "b.onnx", "b.onnx.data")
    source = tmp_path / "a.model"
    proto = onnx.load(output, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "sub/b.onnx.data"
    save(proto, source)
    put(source, output, external=False)
    assert_same_weights(source, small_models.two_conv3d())


def test_a_broken_link_and_a_broken_model_beside_it_do_not_matter(tmp_path):
    path = save_external(small_models.two_conv3d(), tmp_path / "a.onnx", "a.onnx.data")
    (tmp_path / "broken.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    put(path, path, external=False)
    assert sorted(files(tmp_path)) == ["a.onnx", "garbage.onnx"]


def test_an_output_that_was_no_model_is_replaced(tmp_path):
    source = save(small_models.conv3d(), tmp_path / "in.onnx")
    (tmp_path / "out.onnx").write_bytes(b"garbage")
    put(source, tmp_path / "out.onnx", external=False)
    assert_same_weights(tmp_path / "out.onnx", small_models.conv3d())


def test_what_may_not_be_replaced(tmp_path):
    there = save(small_models.conv3d(), tmp_path / "there.onnx")
    with pytest.raises(UserError, match="--overwrite"):
        refuse_to_replace(there, overwrite=False)
    with pytest.raises(UserError, match="is a folder"):
        refuse_to_replace(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="does not exist"):
        refuse_to_replace(tmp_path / "nowhere" / "a.onnx", overwrite=True)
    with pytest.raises(UserError, match="does not exist"):
        refuse_to_replace(there / "a.onnx", overwrite=True)
    refuse_to_replace(there, overwrite=True)
    refuse_to_replace(tmp_path / "new.onnx", overwrite=False)


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    write_text(path, "old ü\n")
    assert path.read_bytes() == "old ü\n".encode()

    def fail(src: Path, dst: Path) -> None:
        raise OSError

    monkeypatch.setattr(output_files.os, "replace", fail)
    with pytest.raises(OSError):  # noqa: PT011
        write_text(path, "new")
    assert files(tmp_path) == {"plan.json": "old ü\n".encode()}


def test_where_a_file_can_be_made_is_found_without_leaving_one(tmp_path):
    check_writable("--report", tmp_path / "r.md")
    (tmp_path / "old.md").write_text("old")
    check_writable("--report", tmp_path / "old.md")
    assert [p.name for p in tmp_path.iterdir()] == ["old.md"]
    for path, complaint in (
        (tmp_path / "no/r.md", "the folder does not exist"),
        (tmp_path, "is a folder; name a file"),
        (Path("/proc/r.md"), "--report /proc/r.md: the folder cannot be written"),
    ):
        with pytest.raises(UserError, match=complaint):
            check_writable("--report", path)
