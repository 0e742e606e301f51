"""The id of a request: the same in the log and in the answer's header."""

import queue
import re

import pytest
import requests
import tritonclient.grpc as triton_grpc

from converter.serving.access import Access
from converter.serving.request_ids import choose
from tests import small_models, stream_graphs
from tests.patience import PATIENCE
from tests.serving.log_records import listening
from tests.serving.running import running
from tests.serving.slow_model import SlowModel
from tests.serving.test_decode import npy

MADE = re.compile("[0-9a-f]{32}")
X = small_models.draw((1, 4, 2, 6, 8), 3)


@pytest.fixture
def logged():
    """The ids in the log, as they are written.

    Not those of refusals: they are written behind the answer, and may be of the test before.
    """
    ids = queue.Queue()
    with listening(lambda one: ids.put(one.request) if one.msg == "request" else None):
        yield lambda: ids.get(timeout=PATIENCE)


def infer(served, headers=None, **more):
    tensor = {"name": "x", "datatype": "FP32", "shape": X.shape, "data": X.ravel().tolist()}
    url = f"http://{served.http}/v2/models/vae/infer"
    return requests.post(url, json={"inputs": [tensor], **more}, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("header", "in_body", "expected"),
    [("h-1", "b-1", "h-1"), (None, "b-1", "b-1"), ("x" * 129, "b-1", "b-1"), (None, "b\n1", None)],
)
def test_the_header_first_then_the_body(served, logged, header, in_body, expected):
    reply = infer(served, {"X-Request-ID": header} if header else {}, id=in_body)
    assert reply.json()["id"] == in_body  # the protocol's own, as it came
    identifier = logged()
    assert reply.headers["X-Request-ID"] == identifier
    assert identifier == expected if expected else MADE.fullmatch(identifier)


def test_who_sends_none_gets_a_new_one_each_time(served, logged):
    replies = [infer(served) for _ in range(2)]
    ids = [logged() for _ in range(2)]
    assert [reply.headers["X-Request-ID"] for reply in replies] == ids
    assert ids[0] != ids[1]
    assert all(map(MADE.fullmatch, ids))
    assert "id" not in replies[0].json()


def test_decode(served, logged):
    url = f"http://{served.http}/v2/models/wan/decode"
    data = npy(stream_graphs.latent(5))
    for headers in ({"X-Request-ID": "clip 7"}, {}):
        reply = requests.post(url, data=data, headers=headers, timeout=PATIENCE)
        assert reply.status_code == 200
        identifier = logged()
        assert reply.headers["X-Request-ID"] == identifier
        assert identifier == "clip 7" if headers else MADE.fullmatch(identifier)


def test_a_refusal_has_one_too(served):
    headers = {"X-Request-ID": "r"}
    url = f"http://{served.http}/v2/models/nobody/infer"
    reply = requests.post(url, headers=headers, timeout=PATIENCE)
    assert (reply.status_code, reply.headers["X-Request-ID"]) == (404, "r")
    with running([SlowModel()], access=Access("s3cret")) as serving:
        url = f"http://127.0.0.1:{serving.http_port}/v2"
        reply = requests.get(url, headers=headers, timeout=PATIENCE)
        assert (reply.status_code, reply.headers["X-Request-ID"]) == (401, "r")


def test_over_grpc(served, logged):
    client = triton_grpc.InferenceServerClient(served.grpc)
    x = triton_grpc.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X)
    assert client.infer("vae", [x], request_id="g").get_response().id == "g"
    assert client.infer("vae", [x]).get_response().id == ""
    assert logged() == "g"
    assert MADE.fullmatch(logged())


def test_what_is_not_fit_for_a_header_is_not_taken():
    for bad in ("", " a", "a\r\nb", "é", "x" * 129, "\x7f"):
        assert MADE.fullmatch(choose(bad))
        assert choose(bad, "good") == "good"
    assert choose("x" * 128) == "x" * 128
