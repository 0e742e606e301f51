"""What a client may not have: too much, too long, too many at once."""

import asyncio
import gzip
import threading
import zlib

import pytest
import requests

from converter.serving.errors import RequestError, Status
from converter.serving.limits import Limits, read_body
from converter.serving.model import open_model
from tests.patience import PATIENCE, until
from tests.serving.asking import hanging_up
from tests.serving.running import running
from tests.serving.slow_model import SlowModel
from tests.serving.test_lifecycle import endless

PATH = "/v2/models/slow/infer"


def body(count):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, count], "data": [1.5] * count}
    return {"inputs": [tensor]}


def ask(port, count=1):
    return requests.post(f"http://127.0.0.1:{port}{PATH}", json=body(count), timeout=PATIENCE)


class Asking(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, port):
        super().__init__()
        self.port = port
        self.reply = None
        self.start()

    def run(self):
        self.reply = ask(self.port)


def test_a_full_queue_is_told_to_come_back_and_nothing_taken_is_lost():
    model = SlowModel()
    with running([model], Limits(queue=2)) as serving:
        worker = serving.server.workers["slow"]
        asking = [Asking(serving.http_port)]
        assert model.begun.acquire(timeout=PATIENCE)
        asking += [Asking(serving.http_port) for _ in range(2)]
        until(lambda: worker.waiting == 2)
        refused = ask(serving.http_port)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "one request runs and 2 wait" in refused.json()["error"]
        assert worker.statistics.rejected == 1
        live = requests.get(
            f"http://127.0.0.1:{serving.http_port}/v2/health/live", timeout=PATIENCE
        )
        assert live.status_code == 200
        model.let.set()
        for thread in asking:
            thread.join(PATIENCE)
            assert thread.reply.json()["outputs"][0]["data"] == [3.0]
        metrics = requests.get(
            f"http://127.0.0.1:{serving.http_port}/metrics", timeout=PATIENCE
        ).text
        assert '{code="429",model="slow",protocol="http"} 1.0' in metrics
        assert '{code="200",model="slow",protocol="http"} 3.0' in metrics


def test_out_of_time():
    model = SlowModel()
    with running([model], Limits(timeout=1.5)) as serving:
        first = Asking(serving.http_port)
        assert model.begun.acquire(timeout=PATIENCE)
        second = ask(serving.http_port)
        assert second.status_code == 504
        assert second.json()["error"] == "no result within 1.5 seconds"
        model.let.set()
        first.join(PATIENCE)
        assert first.reply.status_code == 504
        until(lambda: serving.server.workers["slow"].running == 0)
        assert model.runs == 1  # what had not begun was dropped


def test_a_client_that_hangs_up_is_not_computed():
    model = SlowModel()
    with running([model]) as serving:
        first = Asking(serving.http_port)
        assert model.begun.acquire(timeout=PATIENCE)
        worker = serving.server.workers["slow"]
        with hanging_up(serving.http_port, PATH, body(1)):
            until(lambda: worker.waiting == 1)
        until(lambda: worker.waiting == 0)
        model.let.set()
        first.join(PATIENCE)
        assert first.reply.status_code == 200
        assert model.runs == 1


@pytest.mark.parametrize("leaves", [True, False])
def test_a_graph_that_runs_is_ended_with_its_request(tmp_path, leaves):
    """When its client leaves, or the time is up."""
    model = open_model(endless(tmp_path / "endless.onnx"), "slow", provider="cpu")
    with running([model], Limits(timeout=None if leaves else 0.5)) as serving:
        worker = serving.server.workers["slow"]

        def leave():
            with hanging_up(serving.http_port, PATH, body(2)):
                until(lambda: worker.running == 1)

        if leaves:
            leave()
        else:
            assert ask(serving.http_port, 2).status_code == 504
        until(lambda: (worker.waiting, worker.running) == (0, 0))
        assert worker.statistics.fail.count == 1
        assert worker.unwanted_seconds() == 0
        serving.server.limits = Limits()
        leave()  # it runs again


def test_a_response_too_large_is_refused_before_it_is_computed():
    model = SlowModel()
    with running([model], Limits(response=40)) as serving:
        reply = ask(serving.http_port, count=11)
        assert reply.status_code == 413
        assert reply.json()["error"] == "the outputs are 44 bytes, more than the limit of 40"
        assert model.runs == 0
        model.let.set()
        assert ask(serving.http_port, count=10).status_code == 200


def test_a_request_too_large_is_refused_while_it_is_read():
    model = SlowModel()
    with running([model], Limits(request=1000)) as serving:
        url = f"http://127.0.0.1:{serving.http_port}/v2/models/slow/infer"
        taken = []

        def endless():
            while True:
                taken.append(1)
                yield b" " * 1000

        declared = requests.post(url, data=b" " * 1001, timeout=PATIENCE)
        assert declared.status_code == 413
        assert "larger than the limit of 1000 bytes" in declared.json()["error"]
        bomb = requests.post(
            url,
            data=gzip.compress(bytes(10**7)),
            headers={"Content-Encoding": "gzip"},
            timeout=PATIENCE,
        )
        assert bomb.status_code == 413
        try:
            status = requests.post(url, data=endless(), timeout=PATIENCE).status_code
        except requests.exceptions.ConnectionError:  # hung up before the client had sent all
            status = 413
        assert status == 413
        assert len(taken) < 10_000


def read(parts, encoding="", limit=100):
    async def arriving():
        for part in parts:
            yield part

    return bytes(asyncio.run(read_body(arriving(), encoding, None, limit)))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bodies_in_parts_of_any_size(size):
    text = bytes(range(100))
    for encoding, packed in [
        ("", text),
        ("identity", text),
        ("gzip", gzip.compress(text)),
        ("deflate", zlib.compress(text)),
    ]:
        parts = [packed[start : start + size] for start in range(0, len(packed), size)]
        assert read(parts, encoding) == text
        with pytest.raises(RequestError) as caught:
            read(parts, encoding, limit=99)
        assert caught.value.status is Status.TOO_LARGE
