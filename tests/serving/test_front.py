"""What is refused before it comes to a model: in the log, and counted."""

import json
import re
import socket
import time

import pytest
import requests
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from converter.serving.access import Access
from converter.serving.limits import Limits
from tests.patience import PATIENCE, until
from tests.serving.asking import hanging_up
from tests.serving.log_records import listening
from tests.serving.running import running
from tests.serving.slow_model import SlowModel

GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]}


@pytest.fixture
def logged():
    """Records of the log, as dictionaries."""
    records = []
    with listening(lambda record: records.append(record.__dict__)):
        yield records


def counted(serving):
    """The codes in the metrics, by model and protocol."""
    text = serving.server.metrics.text().decode()
    line = re.compile(
        r'convert_vae_requests_total{code="(\d+)",model="(\w*)",protocol="(\w+)"} (\d+)'
    )
    return {
        (model, protocol, code): int(count) for code, model, protocol, count in line.findall(text)
    }


def test_refusals_over_http(logged):
    model = SlowModel()
    model.let.set()
    with running([model], Limits(request=1000), Access("s3cret")) as serving:
        url = f"http://127.0.0.1:{serving.http_port}"
        token = {"Authorization": "Bearer s3cret"}

        def ask(method, path, identifier, data=None, headers=token):
            named = {**headers, "X-Request-ID": identifier}
            return requests.request(method, url + path, data=data, headers=named, timeout=PATIENCE)

        infer = "/v2/models/slow/infer"
        for identifier, code, method, path, data, headers in [
            ("a", 401, "POST", infer, b"{}", {}),
            ("b", 404, "POST", "/v2/models/other/infer", b"{}", token),
            ("c", 404, "GET", "/" + "x" * 500, None, token),
            ("d", 405, "GET", infer, None, token),
            ("e", 413, "POST", infer, bytes(1001), token),
            ("f", 400, "POST", infer, b"{", token),
            ("g", 400, "POST", "/v2/models/slow/decode", b"{", token),
        ]:
            assert ask(method, path, identifier, data, headers).status_code == code
            # It is logged when the answer is on its way.
            (seen,) = until(lambda: [one for one in logged if one.get("request") == identifier])  # noqa: B023
            assert (seen["msg"], seen["code"], seen["protocol"]) == ("refused", code, "http")
            assert (seen["method"], seen["path"]) == (method, path[:200])
        assert ask("GET", "/v2", "h").status_code == 200
        assert ask("POST", infer, "i", json.dumps(GOOD)).status_code == 200
        assert counted(serving) == {
            ("", "http", "400"): 2,
            ("", "http", "401"): 1,
            ("", "http", "404"): 2,
            ("", "http", "405"): 1,
            ("", "http", "413"): 1,
            ("slow", "http", "200"): 1,
        }


def test_what_came_to_a_model_is_counted_there_alone():
    model = SlowModel()
    with running([model], Limits(response=40, queue=0, timeout=0.3)) as serving:
        url = f"http://127.0.0.1:{serving.http_port}/v2/models/slow/infer"
        large = {"inputs": [{**GOOD["inputs"][0], "shape": [1, 11], "data": [1.5] * 11}]}
        assert requests.post(url, json=large, timeout=PATIENCE).status_code == 413
        assert requests.post(url, json=GOOD, timeout=PATIENCE).status_code == 504
        assert requests.post(url, json=GOOD, timeout=PATIENCE).status_code == 429
        model.let.set()
        codes = ("413", "429", "504")
        assert counted(serving) == {("slow", "http", code): 1 for code in codes}


def test_a_client_that_leaves_while_it_waits():
    model = SlowModel()
    with running([model]) as serving:
        with hanging_up(serving.http_port, "/v2/models/slow/infer", GOOD):
            assert model.begun.acquire(timeout=PATIENCE)
        assert until(lambda: counted(serving)) == {("slow", "http", "499"): 1}
        model.let.set()


def test_a_client_that_leaves_while_it_sends(logged, capfd):
    with running([SlowModel()]) as serving:
        with socket.create_connection(("127.0.0.1", serving.http_port)) as connection:
            connection.sendall(
                b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: a\r\nX-Request-ID: left\r\n"
                b"Content-Length: 1000\r\n\r\n{"
            )
            time.sleep(0.1)
        refused = until(lambda: [one["code"] for one in logged if one["msg"] == "refused"])
        assert refused == [499]
        assert counted(serving) == {("", "http", "499"): 1}
    assert "Traceback" not in capfd.readouterr().err


def test_refusals_over_grpc(logged):
    with running([SlowModel()], access=Access("s3cret")) as serving:
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{serving.grpc_port}")
        token = {"authorization": "Bearer s3cret"}
        x = triton_grpc.InferInput("z", [1, 1], "FP32")
        with pytest.raises(InferenceServerException):
            client.is_server_live()
        with pytest.raises(InferenceServerException):
            client.get_model_metadata("other", headers=token)
        with pytest.raises(InferenceServerException):
            client.infer("slow", [x], request_id="g-1", headers=token)
        assert counted(serving) == {
            ("", "grpc", "400"): 1,
            ("", "grpc", "401"): 1,
            ("", "grpc", "404"): 1,
        }
        (bad,) = [one for one in logged if one.get("request") == "g-1"]
        assert (bad["method"], bad["path"]) == ("ModelInfer", "/inference.GRPCInferenceService")
