"""The server driven over gRPC by Triton's client, unchanged."""

import queue

import grpc
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from converter.serving import messages
from scripts.compile_protocol import compile_to
from tests import small_models, stream_graphs
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def an_input(name, array, datatype="FP32"):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def test_what_it_says_of_itself(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("wan")
    assert client.get_server_metadata().name == "convert-vae"
    metadata = client.get_model_metadata("vae")
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("x", "FP32", [-1, 4, -1, 6, 8])
    ]
    config = client.get_model_config("wan").config
    assert config.model_transaction_policy.decoupled
    assert config.output[0].data_type == model_config_pb2.TYPE_FP32
    assert [one.name for one in client.get_model_repository_index().models] == [
        "vae",
        "types",
        "wan",
    ]


def test_inference_is_that_of_the_graph(served, client):
    x = small_models.draw((2, 4, 5, 6, 8), 3)
    session = onnxruntime.InferenceSession(served.graph, providers=["CPUExecutionProvider"])
    before = client.get_inference_statistics("vae").model_stats[0]
    for compression in (None, "gzip"):
        result = client.infer(
            "vae", [an_input("x", x)], request_id="5", compression_algorithm=compression
        )
        assert np.array_equal(result.as_numpy("y"), session.run(None, {"x": x})[0])
        assert result.get_response().id == "5"
    after = client.get_inference_statistics("vae").model_stats[0]
    assert after.inference_count == before.inference_count + 2
    assert after.inference_stats.fail.count == before.inference_stats.fail.count


def stream(client, *requests, **options):
    """The responses to some requests on one stream, until each has its final one or fails."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number, (model, inputs) in enumerate(requests):
        client.async_stream_infer(model, inputs, request_id=str(number), **options)
    seen = {str(number): [] for number in range(len(requests))}
    open_requests = len(requests)
    while open_requests:
        result, error = answers.get(timeout=PATIENCE)
        if error is not None:
            open_requests -= 1
            seen["error"] = str(error)
            continue
        response = result.get_response()
        open_requests -= response.parameters["triton_final_response"].bool_param
        if response.outputs:
            seen[response.id].append(result.as_numpy(response.outputs[0].name))
    client.stop_stream()
    return seen


def test_a_stream_sends_its_chunks_and_says_which_is_last(client):
    latents = [stream_graphs.latent(5), stream_graphs.latent(2)]
    seen = stream(
        client,
        *[("wan", [an_input("latent", latent)]) for latent in latents],
        enable_empty_final_response=True,
    )
    assert [[part.shape[2] for part in seen[number]] for number in "01"] == [[2, 2, 1], [2]]
    for number, latent in zip("01", latents, strict=True):
        video = np.concatenate(seen[number], axis=2)
        np.testing.assert_allclose(video, stream_graphs.decode(latent), rtol=0, atol=1e-5)


def test_a_graph_has_one_response_which_is_final(client):
    x = small_models.draw((1, 4, 2, 6, 8), 3)
    seen = stream(client, ("vae", [an_input("x", x)]))
    assert [part.shape for part in seen["0"]] == [(1, 8, 2, 6, 8)]


def test_an_error_on_a_stream_ends_its_request_alone(client):
    bad = an_input("latent", stream_graphs.latent(2)[:, :7])
    good = an_input("latent", stream_graphs.latent(2))
    seen = stream(client, ("wan", [bad]), ("wan", [good]), enable_empty_final_response=True)
    assert "of shape [1, 7, 2, 4, 5], but must be [1, 8, ?, 4, 5]" in seen["error"]
    assert len(seen["1"]) == 1


def message(**changes):
    one = service_pb2.ModelInferRequest(model_name="vae")
    tensor = one.inputs.add(name="x", datatype="FP32", shape=[1, 4, 1, 6, 8])
    tensor.contents.fp32_contents.extend([0.5] * 192)
    for key, value in changes.items():
        if key == "raw":
            tensor.ClearField("contents")
            one.raw_input_contents.extend(value)
        elif key == "shape":
            tensor.ClearField("shape")
            tensor.shape.extend(value)
        elif key == "values":
            tensor.ClearField("contents")
            tensor.contents.fp32_contents.extend(value)
        elif key == "output":
            one.outputs.add(name=value)
        elif key == "model_name":
            one.model_name = value
        else:
            setattr(tensor, key, value)
    return one


def test_typed_contents_are_values_too(served, stub):
    reply = stub.ModelInfer(message())
    session = onnxruntime.InferenceSession(served.graph, providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": np.full((1, 4, 1, 6, 8), 0.5, np.float32)})[0]
    assert reply.raw_output_contents[0] == y.tobytes()
    assert reply.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize(
    ("changes", "code", "complaint"),
    [
        ({"name": "z"}, "INVALID_ARGUMENT", "vae has no input 'z'"),
        ({"datatype": "FP64"}, "INVALID_ARGUMENT", "is FP64, but must be FP32"),
        ({"shape": [4]}, "INVALID_ARGUMENT", "is of shape [4], but must be [?, 4, ?, 6, 8]"),
        ({"shape": [-1, 4, 1, 6, 8]}, "INVALID_ARGUMENT", "is of shape [-1, 4, 1, 6, 8]"),
        ({"values": [0.5]}, "INVALID_ARGUMENT", "has 1 values, but its shape needs 192"),
        ({"raw": [b"abc"]}, "INVALID_ARGUMENT", "has 3 bytes, but its shape needs 768"),
        ({"raw": [b"", b""]}, "INVALID_ARGUMENT", "1 inputs came with 2 raw contents"),
        ({"shape": [100000, 4, 100000, 6, 8]}, "RESOURCE_EXHAUSTED", "1920000000000 elements"),
        ({"output": "z"}, "INVALID_ARGUMENT", "vae has no output 'z'"),
        ({"model_name": "other"}, "NOT_FOUND", "there is no model 'other' here"),
        ({"model_name": "wan"}, "INVALID_ARGUMENT", "ask for it by ModelStreamInfer"),
    ],
)
def test_what_a_client_gets_wrong_is_a_status_and_a_sentence(stub, changes, code, complaint):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message(**changes))
    assert caught.value.code().name == code
    assert complaint in caught.value.details()


def test_unknown_models_and_versions(client):
    with pytest.raises(InferenceServerException, match="there is no model 'other' here"):
        client.get_model_metadata("other")
    with pytest.raises(InferenceServerException, match="has no version '7'"):
        client.get_model_config("vae", "7")


def test_the_messages_are_those_that_triton_publishes():
    """Every field that we know has the number, the type and the label it has there."""
    published = {**service_pb2.DESCRIPTOR.message_types_by_name}
    published |= model_config_pb2.DESCRIPTOR.message_types_by_name
    compared = 0

    def compare(ours, theirs):
        nonlocal compared
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (
                other.number,
                other.type,
                other.is_repeated,
            ), field.full_name
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                assert field.message_type.full_name == other.message_type.full_name
            compared += 1
        for nested in ours.nested_types:
            compare(nested, theirs.nested_types_by_name[nested.name])

    file = messages.message("ModelInferRequest").DESCRIPTOR.file
    for name, ours in file.message_types_by_name.items():
        compare(ours, published[name])
    assert compared > 100
    values = file.enum_types_by_name["DataType"].values_by_name
    assert {name: value.number for name, value in values.items()} == dict(
        model_config_pb2.DataType.items()
    )


def test_the_descriptors_are_compiled_from_the_text_beside_them(tmp_path):
    compile_to(tmp_path / "made.binpb")
    kept = messages.files("converter.serving").joinpath("open_inference.binpb").read_bytes()
    assert (tmp_path / "made.binpb").read_bytes() == kept
