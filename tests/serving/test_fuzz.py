"""Requests that nobody would write by hand: never a 5xx, never a hang, and the server stays up.

Those of the first test follow the OpenAPI document, and most of them are to be answered; those of
the second are damaged in every way that the framing of binary tensors has.
"""

import io
import itertools
import json
import math
from collections import Counter

import numpy as np
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from converter.serving.datatypes import NUMPY, ONLY_BINARY
from tests.patience import PATIENCE
from tests.serving.asking import ask

HEADER = "Inference-Header-Content-Length"
TIMEOUT = PATIENCE
"""Seconds without an answer that count as a hang."""

FITTING = 0.8
"""Share of the bodies that are made to fit: a schema cannot say how many values a shape has."""

ANSWERED = 0.7
"""Least share of requests by the document that get a 200."""

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def bounded(examples):
    """As many examples as the default suite has time for."""
    return settings(
        max_examples=examples,
        phases=[Phase.generate],  # a failure tells the request; to shrink it would take minutes
        suppress_health_check=[*HealthCheck],
    )


def npy(shape):
    file = io.BytesIO()
    np.save(file, np.ones(shape, np.float32))
    return file.getvalue()


LATENTS = st.integers(1, 6).map(lambda t: npy((1, 8, t, 4, 5)))
schemathesis.openapi.media_type("application/x-npy", LATENTS | st.binary(max_size=300))
schemathesis.openapi.media_type("application/octet-stream", st.binary(max_size=300))


def sizes(tensor, given=()):
    """A shape that fits; open sizes as they are given, but small."""
    pairs = itertools.zip_longest(tensor.shape, given[: len(tensor.shape)], fillvalue=1)
    return [size if size > 0 else 1 + int(other) % 3 for size, other in pairs]


def numbers(data):
    """The small ones of nested lists."""
    for value in data:
        if isinstance(value, list):
            yield from numbers(value)
        elif isinstance(value, int | float) and abs(value) < 100:
            yield value


def fitted(model, body):
    """A request in JSON with shapes and values that go together."""
    entries = []
    for tensor, entry in itertools.zip_longest(model.inputs, body["inputs"], fillvalue={}):
        shape = sizes(tensor, entry.get("shape", ()))
        some = itertools.cycle([*numbers(entry.get("data", ()))] or [1])
        data = [*itertools.islice(some, math.prod(shape))]
        entries.append(
            {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data}
        )
    return {**{key: body[key] for key in body if key != "parameters"}, "inputs": entries}


def framed(draw, model):
    """A request with binary tensors: the length of its JSON, and the body."""
    entries, tensors = [], b""
    for tensor in model.inputs:
        shape = sizes(tensor, draw(st.lists(st.integers(1, 9), min_size=5, max_size=5)))
        raw = np.ones(shape).astype(NUMPY[tensor.datatype]).tobytes()
        entries.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": shape,
                "parameters": {"binary_data_size": len(raw)},
            }
        )
        tensors += raw
    head = {"inputs": entries, "parameters": {"binary_data_output": True}}
    head = json.dumps(head).encode()
    return len(head), head + tensors


def the_model(served, path):
    """The model of a path, where it is one that computes."""
    parts = path.split("/")
    return served.server.models[parts[3]] if parts[-1] == "infer" else None


def by_the_document(operation, base, model):
    """Ask for an operation as the document says, again and again; the codes of the answers."""
    counted = Counter()

    @bounded(15 if operation.method == "post" else 3)
    @given(st.data())
    def check(data):
        case = data.draw(operation.as_strategy())
        if model is not None and data.draw(st.floats(0, 1)) < FITTING:
            case.headers.pop(HEADER, None)
            only_binary = any(tensor.datatype in ONLY_BINARY for tensor in model.inputs)
            if case.media_type == "application/json" and not only_binary:
                case.body = fitted(model, case.body)
            else:
                case.media_type = "application/octet-stream"
                length, case.body = framed(data.draw, model)
                case.headers[HEADER] = str(length)
        answer = case.call(base_url=base, timeout=TIMEOUT)
        assert answer.status_code < 500, (answer.status_code, answer.text)
        case.validate_response(answer, checks=CHECKS)
        counted[answer.status_code] += 1

    check()
    return counted


def test_requests_by_the_document(served):
    base = f"http://{served.http}"
    seen = {}
    for found in schemathesis.openapi.from_url(f"{base}/openapi.json").get_all_operations():
        operation = found.ok()
        model = the_model(served, operation.path)
        seen[operation.label] = by_the_document(operation, base, model)
    total = sum(seen.values(), Counter())
    print(f"{total.total()} requests of {len(seen)} operations: {dict(total)}")
    assert total[200] >= ANSWERED * total.total()
    assert set(total) <= {200, 400, 406, 413}
    for label, counted in seen.items():
        assert counted[200] > 0, label
    counts = served.server.metrics.text().decode()
    for name in served.server.models:
        assert f'convert_vae_requests_total{{code="200",model="{name}",protocol="http"}}' in counts


ENTRY = {
    "name": "x",
    "shape": [1, 4, 1, 6, 8],
    "datatype": "FP32",
    "parameters": {"binary_data_size": 768},
}
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 4, 6, 8, 768, 2**31, 2**63, 10**30]),
    st.floats(),  # NaN and Infinity, which Python's JSON takes
    st.none(),
    st.booleans(),
    st.text(max_size=3),
)
HUGE = st.lists(st.integers(10**6, 10**9), min_size=2, max_size=2).map(
    lambda two: [two[0], 4, two[1], 6, 8]
)
SHAPES = st.one_of(st.lists(NUMBERS, max_size=7), st.none(), HUGE)
SIZES = NUMBERS | st.sampled_from([767, 769, 0, 384])


@st.composite
def damaged(draw):
    """A body and its header: one or two things are wrong with a request that was right."""
    entry = json.loads(json.dumps(ENTRY))
    head = {"id": draw(st.text(max_size=4)), "inputs": [entry], "outputs": [{"name": "y"}]}
    tensor = bytes(768)
    ways = draw(st.lists(st.sampled_from(["shape", "size", "twice", "cut", "more"]), max_size=2))
    if "shape" in ways:
        entry["shape"] = draw(SHAPES)
    if "size" in ways:
        entry["parameters"]["binary_data_size"] = draw(SIZES)
    if "twice" in ways:  # tensors that overlap, or are said to
        head["inputs"].append(dict(entry, name=draw(st.sampled_from("xyz"))))
    text = json.dumps(head).encode()
    bytewise = draw(st.sampled_from(["", "", "", "flip", "delete", "insert"]))
    if bytewise:
        place = draw(st.integers(0, len(text) - 1))
        junk = draw(st.binary(min_size=1, max_size=4) | st.just(b"\xff\xc0\xed\xa0\x80"))
        end = place + {"flip": len(junk), "delete": 9, "insert": 0}[bytewise]
        text = text[:place] + (b"" if bytewise == "delete" else junk) + text[end:]
    length = str(len(text))
    if draw(st.booleans()):
        length = draw(
            st.integers(-1, 2 * len(text)).map(str)
            | st.sampled_from(["", "9" * 30, "1e3", "0x10", " 7", "+7", "-0", "NaN", None])
        )
    if "cut" in ways:
        tensor = tensor[: draw(st.integers(0, 767))]
    if "more" in ways:
        tensor += draw(st.binary(min_size=1, max_size=9))
    return text + tensor, {} if length is None else {HEADER: length}


def test_damaged_framing(served):
    counted = Counter()

    @bounded(400)
    @given(damaged())
    def check(request):
        body, headers = request
        status, answer, _ = ask(served, "POST", "/v2/models/vae/infer", body, headers)
        assert status in (200, 400, 413), answer
        assert status == 200 or json.loads(answer)["error"]
        counted[status] += 1

    check()
    print(dict(counted))
    assert counted[400] > 100
    assert counted[413] > 0
    assert counted[200] > 10  # what was left whole
    text = json.dumps({"inputs": [ENTRY]}).encode()
    headers = {HEADER: str(len(text))}
    assert ask(served, "POST", "/v2/models/vae/infer", text + bytes(768), headers)[0] == 200


@given(body=st.binary(max_size=200) | LATENTS.map(lambda whole: whole[:-7]))
@bounded(60)
def test_damaged_latents(served, body):
    status, answer, _ = ask(served, "POST", "/v2/models/wan/decode", body)
    assert status == 400
    assert json.loads(answer)["error"]
