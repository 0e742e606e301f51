import json

import pytest

from converter import manifest
from converter.errors import UserError
from tests import stream_graphs


@pytest.fixture
def path(tmp_path):
    return stream_graphs.write(tmp_path / "a.json")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(path):
    with pytest.raises(UserError) as error:
        manifest.read(path)
    return str(error.value)


def test_what_was_written_is_read(path):
    read = manifest.read(path)
    assert read.spec == stream_graphs.spec(2)
    assert {role: file.name for role, file in read.files.items()} == {
        "first": "a.first.onnx",
        "next": "a.next.onnx",
        "data": "a.data",
    }
    assert read.path("data") == path.parent / "a.data"
    assert json.loads(path.read_text())["format"] == "convert-vae stream"


def test_sizes_that_may_be_any(tmp_path):
    read = manifest.read(stream_graphs.write(tmp_path / "a.json", dynamic=True))
    assert read.spec.latent == (1, 8, 2, None, None)


def test_the_shapes_of_the_inputs_follow_from_the_latents():
    spec = manifest.StreamSpec(
        family="",
        chunk=3,
        latent=(2, 16, 3, None, None),
        video_channels=3,
        time=4,
        space=8,
        caches=(manifest.CacheEntry("in", "out", 96, 2, 4),),
    )
    assert spec.inputs(5, 7) == {"latent": (2, 16, 3, 5, 7), "in": (2, 96, 2, 20, 28)}


def test_only_json_is_a_manifest(tmp_path):
    assert manifest.is_manifest(tmp_path / "a.JSON")
    assert not manifest.is_manifest(tmp_path / "a.json.onnx")


@pytest.mark.parametrize("role", ["first", "next", "data"])
def test_a_file_that_was_moved(path, role):
    file = manifest.read(path).path(role)
    file.rename(file.with_name("elsewhere"))
    assert f"needs {file}, which is missing" in refusal(path)


@pytest.mark.parametrize("role", ["first", "next", "data"])
def test_a_file_that_was_changed(path, role):
    file = manifest.read(path).path(role)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert f"{file} is not the file that {path} was written with" in refusal(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is not a manifest that export-vae --stream wrote"),
        (b"{}", "is not a manifest that export-vae --stream wrote"),
        (b'{"format": "convert-vae stream", "version": 1}', "has version 1; this program reads 2"),
        (b'{"format": "convert-vae stream", "version": 2}', "lacks 'caches'"),
    ],
)
def test_what_is_no_manifest(tmp_path, content, complaint):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert complaint in refusal(path)


def test_a_manifest_that_is_not_there(tmp_path):
    assert refusal(tmp_path / "a.json") == f"the manifest {tmp_path / 'a.json'} does not exist."
    assert "cannot be read: Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"chunk": 3}, "the latent has 2 frames, but the chunk 3"),
        ({"chunk": 0}, "chunk is 0, not a number from 1 on"),
        ({"time": True}, "time is True, not a number from 1 on"),
        ({"space": "8"}, "space is '8', not a number from 1 on"),
        ({"family": 3}, "family is 3, not a text"),
        ({"latent": [1, 8, 2, 4]}, "is damaged: not enough values"),
        ({"latent": [1, 8, 2, -4, None]}, "H is -4, not a number from 1 on"),
        ({"latent": None}, "is damaged"),
        ({"caches": 7}, "is damaged"),
        ({"caches": [{"input": "a"}]}, "lacks 'output'"),
        ({"files": {}}, "lacks 'first'"),
        ({"files": {"first": {"name": "../a", "sha256": ""}}}, "'../a' is not the name of a file"),
        ({"files": {"first": {"name": "..", "sha256": ""}}}, "'..' is not the name of a file"),
    ],
)
def test_a_damaged_manifest(path, fields, complaint):
    change(path, **fields)
    assert complaint in refusal(path)
