"""Model repositories, read by the schema that Triton publishes with its client."""

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from converter import triton
from converter.cli.export_triton import main
from tests import small_models, stream_graphs
from tests.cli.command import assert_refused
from tests.small_models import files, save, save_external, value


def read_config(folder) -> model_config_pb2.ModelConfig:
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def export_triton(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(path, feed):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.fixture
def source(tmp_path):
    return save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), tmp_path / "vae.onnx")


def test_the_config_says_what_the_graph_takes_and_gives(source, tmp_path):
    done = export_triton(source, tmp_path / "repository", "--instances", 2, "--kind", "gpu")
    assert done.exit_code == 0, done.stderr
    config = read_config(tmp_path / "repository" / "vae")
    assert config.name == "vae"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 0
    assert config.default_model_filename == "model.onnx"
    (one,) = config.input
    assert (one.name, one.data_type, list(one.dims)) == (
        "x",
        model_config_pb2.TYPE_FP32,
        [-1, 4, -1, 6, 8],
    )
    (one,) = config.output
    assert (one.name, list(one.dims)) == ("y", [-1] * 5)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_GPU)


@pytest.mark.parametrize("external", [False, True])
def test_the_model_runs_as_the_source_does(source, tmp_path, external):
    if external:
        source = save_external(onnx.load(source), tmp_path / "large.onnx")
    (made,) = triton.export(source, tmp_path / "repository")
    assert sorted(path.name for path in made.folder.iterdir()) == (
        ["model.onnx", "model.onnx.data"] if external else ["model.onnx"]
    )
    feed = {"x": small_models.draw((2, 4, 5, 6, 8), 3)}
    assert np.array_equal(run(made.folder / "model.onnx", feed), run(source, feed))


def test_a_second_export_is_the_next_version(source, tmp_path):
    repository = tmp_path / "repository"
    assert [one.version for _ in range(3) for one in triton.export(source, repository)] == [1, 2, 3]
    assert sorted(path.name for path in repository.iterdir()) == ["vae"]
    assert sorted(path.name for path in (repository / "vae").iterdir()) == [
        "1",
        "2",
        "3",
        "config.pbtxt",
    ]


def test_another_model_of_that_name_is_refused_and_stays(source, tmp_path):
    repository = tmp_path / "repository"
    triton.export(source, repository)
    before = files(tmp_path)
    other = save(small_models.conv3d(), tmp_path / "other.onnx")
    assert_refused(export_triton(other, repository, "--name", "vae"), "holds another model")
    other.unlink()
    assert files(tmp_path) == before


def test_a_manifest_becomes_two_models_with_caches(tmp_path):
    manifest = stream_graphs.write(tmp_path / "wan.json", chunk=2)
    first, following = triton.export(manifest, tmp_path / "repository", name="wan-2.1")
    assert (first.name, following.name) == ("wan-2.1_first", "wan-2.1_next")
    assert [one.name for one in read_config(first.folder.parent).input] == ["latent"]
    inputs = {one.name: list(one.dims) for one in read_config(following.folder.parent).input}
    assert inputs == {
        "latent": [1, 8, 2, 4, 5],
        "cache_in.one": [1, 8, 2, 4, 5],
        "cache_in.two": [1, 8, 2, 4, 5],
    }
    latent = small_models.draw((1, 8, 2, 4, 5), 3)
    ours, theirs = (
        run(path, {"latent": latent})
        for path in (first.folder / "model.onnx", tmp_path / "wan.first.onnx")
    )
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("elem_type", "triton_type"),
    [
        (TensorProto.FLOAT16, model_config_pb2.TYPE_FP16),
        (TensorProto.BFLOAT16, model_config_pb2.TYPE_BF16),
        (TensorProto.UINT8, model_config_pb2.TYPE_UINT8),
        (TensorProto.INT64, model_config_pb2.TYPE_INT64),
        (TensorProto.BOOL, model_config_pb2.TYPE_BOOL),
        (TensorProto.STRING, model_config_pb2.TYPE_STRING),
    ],
)
def test_types_scalars_and_odd_names(elem_type, triton_type):
    name = 'a "quoted\\" na\nme ü'
    proto = small_models.model(
        [helper.make_node("Identity", [name], ["y"])],
        [value(name, (), elem_type)],
        [value("y", (), elem_type)],
    )
    config = text_format.Parse(triton.config("m", proto), model_config_pb2.ModelConfig())
    assert config.input[0].name == name
    assert config.input[0].data_type == config.output[0].data_type == triton_type
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")
    assert list(config.input[0].reshape.shape) == []


def test_bad_input(source, tmp_path):
    assert_refused(export_triton(tmp_path / "none.onnx", tmp_path / "r"), "none.onnx")
    assert_refused(export_triton(source, tmp_path / "a" / "b"), "does not exist")
    assert_refused(export_triton(source, source), "is not a folder")
    assert_refused(export_triton(source, tmp_path / "r", "--name", "a/b"), "cannot name a model")
    typed = small_models.model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", (1,), TensorProto.COMPLEX64)],
        [value("y", (1,), TensorProto.COMPLEX64)],
    )
    odd = save(typed, tmp_path / "odd.onnx")
    assert_refused(export_triton(odd, tmp_path / "r"), "of a type that Triton does not know")
    assert not (tmp_path / "r").exists()
