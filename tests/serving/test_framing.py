"""Requests that were damaged at random are refused with a sentence, and the server stays up."""

import json
import random

import pytest

from tests.serving.asking import ask

ENTRY = {
    "name": "x",
    "shape": [1, 4, 1, 6, 8],
    "datatype": "FP32",
    "parameters": {"binary_data_size": 768},
}
JSON = json.dumps({"id": "a", "inputs": [ENTRY], "outputs": [{"name": "y"}]}).encode()
GOOD = JSON + bytes(768)


def damaged(generator):
    data = bytearray(GOOD)
    for _ in range(generator.randrange(1, 4)):
        place = generator.choice([generator.randrange(len(JSON)), generator.randrange(len(data))])
        kind = generator.randrange(4)
        if kind == 0:
            data[place] = generator.randrange(256)
        elif kind == 1:
            del data[place : place + generator.randrange(1, 20)]
        elif kind == 2:
            data[place:place] = generator.randbytes(3)
        else:
            data += generator.randbytes(generator.randrange(9))
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_requests(served, seed):
    generator = random.Random(seed)
    seen = set()
    for _ in range(60):
        length = generator.choice(
            [str(len(JSON)), str(generator.randrange(2 * len(JSON))), "-1", ""]
        )
        headers = {"Inference-Header-Content-Length": length}
        status, answer, _ = ask(served, "POST", "/v2/models/vae/infer", damaged(generator), headers)
        assert status in (200, 400, 413)
        assert status == 200 or json.loads(answer)["error"]
        seen.add(status)
    assert 400 in seen
    headers = {"Inference-Header-Content-Length": str(len(JSON))}
    assert ask(served, "POST", "/v2/models/vae/infer", GOOD, headers)[0] == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"[" * 100_000, b"\xff"])
def test_a_damaged_request_for_the_index(served, body):
    status, answer, _ = ask(served, "POST", "/v2/repository/index", body)
    assert status == 400
    assert json.loads(answer)["error"]


def test_the_document_names_every_address(served):
    document = json.loads(ask(served, "GET", "/openapi.json")[1])
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        address = path.replace("{name}", "wan").replace("{version}", "1")
        for method in {"get", "post"} & set(methods):
            status, _, _ = ask(served, method.upper(), address, b"{}" if method == "post" else None)
            assert status == (400 if path.endswith(("infer", "decode")) else 200), path
