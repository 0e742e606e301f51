"""Requests for the index that are damaged, and the document of all addresses."""

import json

import pytest

from tests.serving.asking import ask


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"[" * 100_000, b"\xff"])
def test_a_damaged_request_for_the_index(served, body):
    status, answer, _ = ask(served, "POST", "/v2/repository/index", body)
    assert status == 400
    assert json.loads(answer)["error"]


def test_the_document_names_every_address(served):
    document = json.loads(ask(served, "GET", "/openapi.json")[1])
    assert document["openapi"].startswith("3.1")
    decoders = {path for path in document["paths"] if path.endswith("/decode")}
    assert decoders == {"/v2/models/wan/decode", "/v2/models/wan/versions/1/decode"}
    for path, methods in document["paths"].items():
        address = path.replace("{name}", "wan").replace("{version}", "1")
        for method in {"get", "post"} & set(methods):
            status, _, _ = ask(served, method.upper(), address, b"{}" if method == "post" else None)
            assert status == (400 if path.endswith(("infer", "decode")) else 200), path


def test_the_document_states_the_tensors(served):
    paths = json.loads(ask(served, "GET", "/openapi.json")[1])["paths"]
    asked = paths["/v2/models/vae/infer"]["post"]["requestBody"]["content"]["application/json"]
    (x,) = [asked["schema"]["properties"]["inputs"]["items"]["properties"]]
    assert (x["name"], x["datatype"]) == ({"const": "x"}, {"const": "FP32"})
    open_size = {"type": "integer", "minimum": 1}
    fixed = [{"const": size} for size in (4, 6, 8)]
    assert x["shape"]["prefixItems"] == [open_size, fixed[0], open_size, *fixed[1:]]
    names = paths["/v2/models/{name}/ready"]["parameters"][0]["schema"]
    assert names == {"enum": ["vae", "types", "wan"]}
