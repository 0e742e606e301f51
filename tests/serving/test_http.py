"""The server driven over HTTP by Triton's client, unchanged, and by hand where that refuses."""

import gzip
import json

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests import small_models, stream_graphs
from tests.patience import PATIENCE

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.http) as client:
        yield client


@pytest.fixture(scope="module")
def x():
    return small_models.draw((2, 4, 5, 6, 8), 3)


@pytest.fixture(scope="module")
def y(served, x):
    session = onnxruntime.InferenceSession(served.graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def an_input(name, array, datatype="FP32", binary=True):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def post(served, body, headers=None, path="/v2/models/vae/infer"):
    return requests.post(
        f"http://{served.http}{path}", data=body, headers=headers, timeout=PATIENCE
    )


def sentence(reply, status=400) -> str:
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    return reply.json()["error"]


def request(**changes) -> dict:
    """A JSON request for `vae` that is right, but for the changes in its one input."""
    one = {"name": "x", "datatype": "FP32", "shape": [1, 4, 1, 6, 8], "data": [0.5] * 192}
    one.update(changes)
    return {"inputs": [{key: value for key, value in one.items() if value is not None}]}


def test_what_it_says_of_itself(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vae", "1")
    assert client.get_server_metadata()["name"] == "convert-vae"
    assert client.get_model_metadata("vae") == {
        "name": "vae",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4, -1, 6, 8]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 8, -1, 6, 8]}],
    }
    config = client.get_model_config("wan")
    assert config["input"] == [
        {"name": "latent", "data_type": "TYPE_FP32", "dims": [1, 8, -1, 4, 5]}
    ]
    assert config["model_transaction_policy"] == {"decoupled": True}
    index = client.get_model_repository_index()
    assert [(one["name"], one["state"]) for one in index] == [
        ("vae", "READY"),
        ("types", "READY"),
        ("wan", "READY"),
    ]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_inference_is_that_of_the_graph(client, x, y, binary_in, binary_out, compression):
    result = client.infer(
        "vae",
        [an_input("x", x, binary=binary_in)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary_out)],
        request_id="seventeen",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert np.array_equal(result.as_numpy("y"), y)
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        "seventeen",
        "vae",
        "1",
    )


def test_without_wishes_the_outputs_are_json_unless_all_are_wanted_as_bytes(served, x, y):
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4, 5, 6, 8]}]}
    body["inputs"][0]["data"] = x.tolist()
    plain = post(served, json.dumps(body))
    assert LENGTH not in plain.headers
    (output,) = plain.json()["outputs"]
    assert np.array_equal(np.array(output["data"], np.float32).reshape(output["shape"]), y)
    body["parameters"] = {"binary_data_output": True}
    raw = post(served, json.dumps(body))
    assert raw.content[int(raw.headers[LENGTH]) :] == y.tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_every_type_comes_back_as_it_went(client, binary):
    random = np.random.default_rng(0)
    names = {
        "BOOL": ("BOOL", np.bool_),
        "UINT8": ("UINT8", np.uint8),
        "UINT16": ("UINT16", np.uint16),
        "UINT32": ("UINT32", np.uint32),
        "UINT64": ("UINT64", np.uint64),
        "INT8": ("INT8", np.int8),
        "INT16": ("INT16", np.int16),
        "INT32": ("INT32", np.int32),
        "INT64": ("INT64", np.int64),
        "FLOAT16": ("FP16", np.float16),
        "FLOAT": ("FP32", np.float32),
        "DOUBLE": ("FP64", np.float64),
        "BFLOAT16": ("BF16", ml_dtypes.bfloat16),
    }
    inputs, sent, outputs = [], {}, []
    for name, (datatype, dtype) in names.items():
        if datatype.startswith(("FP", "BF")):
            array = random.standard_normal((2, 3)).astype(dtype)
        else:
            array = random.integers(0, 2**63, (2, 3)).astype(dtype)
        as_bytes = binary or datatype in ("FP16", "BF16")
        inputs.append(an_input(f"x.{name}", array, datatype, as_bytes))
        outputs.append(triton.InferRequestedOutput(f"y.{name}", binary_data=as_bytes))
        sent[f"y.{name}"] = array
    result = client.infer("types", inputs, outputs=outputs)
    for name, array in sent.items():
        assert result.as_numpy(name).dtype == array.dtype
        assert np.array_equal(result.as_numpy(name), array)


def test_a_stream_is_one_video_here(client):
    latent = stream_graphs.latent(5)
    video = client.infer("wan", [an_input("latent", latent)]).as_numpy("video")
    np.testing.assert_allclose(video, stream_graphs.decode(latent), rtol=0, atol=1e-5)


def test_statistics_count(client, x):
    before = client.get_inference_statistics("vae")["model_stats"][0]
    for _ in range(3):
        client.infer("vae", [an_input("x", x)])
    with pytest.raises(InferenceServerException):
        client.infer("vae", [an_input("x", x[:, :3])])
    after = client.get_inference_statistics("vae", "1")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 3
    stats = after["inference_stats"]
    assert stats["success"]["ns"] > stats["compute_infer"]["ns"] > 0
    assert after["last_inference"] > 1.6e12


def test_metrics_count_requests_by_code(served, client, x):
    def value(text, code):
        line = f'convert_vae_requests_total{{code="{code}",model="vae",protocol="http"}} '
        return next((float(row[len(line) :]) for row in text.splitlines() if line in row), 0.0)

    before = requests.get(f"http://{served.http}/metrics", timeout=PATIENCE).text
    client.infer("vae", [an_input("x", x)])
    after = requests.get(f"http://{served.http}/metrics", timeout=PATIENCE).text
    assert value(after, 200) == value(before, 200) + 1
    assert 'convert_vae_queue_depth{model="vae"} 0.0' in after


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "z"}, "vae has no input 'z'; it takes x"),
        ({"name": None}, "an input has no name"),
        ({"name": 3}, "an input has no name"),
        ({"datatype": "FP16"}, "the input 'x' is FP16, but must be FP32"),
        ({"datatype": None}, "the input 'x' has no datatype"),
        ({"shape": [1, 4, 6, 8]}, "is of shape [1, 4, 6, 8], but must be [?, 4, ?, 6, 8]"),
        ({"shape": [1, 3, 1, 6, 8]}, "is of shape [1, 3, 1, 6, 8]"),
        ({"shape": [1, 4, 0, 6, 8]}, "is of shape [1, 4, 0, 6, 8]"),
        ({"shape": [1, 4, -1, 6, 8]}, "the shape of the input 'x' is not a list of sizes"),
        ({"shape": [1, 4, True, 6, 8]}, "is not a list of sizes"),
        ({"shape": None}, "is not a list of sizes"),
        ({"data": [0.5] * 191}, "has 191 values, but its shape needs 192"),
        ({"data": [[0.5] * 191, 1]}, "mixes values and lists"),
        ({"data": ["a"] * 192}, "has 'a', which is no FP32"),
        ({"data": [True] * 192}, "has True, which is no FP32"),
        ({"data": [1e39] * 192}, "has a value too large for FP32"),
        ({"data": None}, "has neither data nor binary_data_size"),
        ({"parameters": {"binary_data_size": 768}}, "has both data and binary_data_size"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size is -1"),
        ({"parameters": {"binary_data_size": "1"}}, "binary_data_size is '1'"),
        ({"parameters": []}, "parameters is not an object"),
        ({"parameters": {"shared_memory_region": "a"}}, "shares no memory"),
        (
            {"data": None, "parameters": {"binary_data_size": 764}},
            "has 764 bytes, but its shape needs 768",
        ),
        (
            {"data": None, "parameters": {"binary_data_size": 768}},
            "is cut short: 0 of 768 bytes came",
        ),
    ],
)
def test_what_a_client_gets_wrong_is_a_sentence(served, changes, complaint):
    assert complaint in sentence(post(served, json.dumps(request(**changes))))


@pytest.mark.parametrize(
    ("body", "headers", "complaint"),
    [
        (b"{", {}, "the request is not JSON"),
        (b"\xff", {}, "the request is not JSON"),
        (b"[" * 100000, {}, "the request is not JSON"),
        (b"[]", {}, "the request is not a JSON object"),
        (b"{}", {}, "the request has no list inputs of objects"),
        (b'{"inputs": [1]}', {}, "the request has no list inputs of objects"),
        (b'{"inputs": []}', {}, "the input 'x' of vae is missing"),
        (b"{}", {LENGTH: "3"}, "is '3', but the body has 2 bytes"),
        (b"{}", {LENGTH: "-1"}, "is '-1', but the body has 2 bytes"),
        (b"{}", {LENGTH: "9" * 30}, "but the body has 2 bytes"),
        (b"{}", {"Content-Encoding": "br"}, "the encoding 'br' is none of"),
        (b"{}", {"Content-Encoding": "gzip"}, "the body is no gzip"),
        (
            gzip.compress(b"{}", mtime=0)[:-4],
            {"Content-Encoding": "gzip"},
            "the gzip body is cut short",
        ),
    ],
)
def test_bodies_that_are_no_request(served, body, headers, complaint):
    assert complaint in sentence(post(served, body, headers))


def test_an_impossible_shape_is_not_allocated(served):
    reply = post(served, json.dumps(request(shape=[100000, 4, 100000, 6, 8], data=[1.0])))
    assert sentence(reply, 413) == "the input 'x' has 1920000000000 elements"


def test_one_input_twice_bytes_left_over_and_unknown_outputs(served):
    double = {"inputs": request()["inputs"] * 2}
    assert "was given twice" in sentence(post(served, json.dumps(double)))
    one = json.dumps(request()).encode()
    reply = post(served, one + b"abc", {LENGTH: str(len(one))})
    assert sentence(reply) == "3 bytes are left behind the last tensor"
    for outputs, complaint in [
        ([{"name": "z"}], "vae has no output 'z'; it gives y"),
        ({}, "outputs is not a list"),
        ([{}], "an output has no name"),
        ([{"name": "y", "parameters": {"classification": 3}}], "does not classify"),
    ]:
        body = request() | {"outputs": outputs}
        assert complaint in sentence(post(served, json.dumps(body)))
    assert "the id is not a text" in sentence(post(served, json.dumps(request() | {"id": 1})))


def test_what_json_cannot_say_is_to_be_asked_for_as_bytes(served):
    body = request(data=[3e38] * 192)  # sums of these are infinite
    assert "not finite, which JSON has no numbers for" in sentence(post(served, json.dumps(body)))


def test_what_is_not_there(served):
    for path, complaint in [
        ("/v2/models/other", "there is no model 'other' here"),
        ("/v2/models/vae/versions/2", "vae has no version '2', only '1'"),
        ("/v2/nothing", "there is no /v2/nothing here"),
    ]:
        reply = requests.get(f"http://{served.http}{path}", timeout=PATIENCE)
        assert sentence(reply, 404) == complaint
    reply = requests.get(f"http://{served.http}/v2/models/vae/infer", timeout=PATIENCE)
    assert sentence(reply, 405) == "this path takes another method"
