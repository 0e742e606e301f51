"""What only shows with many clients and large answers. Prints its figures: `pytest -m long -s`."""

import http.client
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.http
from onnx import helper
from onnx.numpy_helper import from_array
from tritonclient.utils import InferenceServerException

from tests import small_models
from tests.patience import PATIENCE, until
from tests.small_models import save, value

BIG = 25_000_000
"""Elements of fp32: 100 MB."""

PROBE = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
end, times = time.monotonic() + float(sys.argv[2]), []
while time.monotonic() < end:
    begun = time.perf_counter()
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read() == b""
    times.append(time.perf_counter() - begun)
    time.sleep(0.02)
times.sort()
print(len(times), times[len(times) // 2], times[int(len(times) * 0.99)], times[-1])
"""


def big():
    """x FP32 (1) -> y FP32 (`BIG`)."""
    return small_models.model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [value("x", [1])],
        [value("y", [BIG])],
        [from_array(np.array([BIG], np.int64), "shape")],
    )


@contextmanager
def process(folder, *arguments):
    """The command itself; yields it and its HTTP address."""
    command = [sys.executable, "-m", "converter.cli.serve_vae", *map(str, arguments)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--provider", "cpu"]
    log = folder / "log"
    with log.open("w") as stderr:
        server = subprocess.Popen([*command, *ports], stderr=stderr, stdout=stderr)
    try:
        found = until(lambda: re.search(r"serving on http://(\S+?:\d+)", log.read_text()))
        yield server, found[1]
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0


def infer(address, model, name, array):
    with tritonclient.http.InferenceServerClient(address, network_timeout=PATIENCE) as client:
        tensor = tritonclient.http.InferInput(name, array.shape, "FP32")
        tensor.set_data_from_numpy(array)
        return client.infer(model, [tensor]).as_numpy("y")


@pytest.mark.long
def test_many_clients_for_a_minute(tmp_path):
    """No answer is lost or wrong, refusals are counted, and health stays quick."""
    import onnxruntime

    seconds, clients = 60, 32
    path = save(small_models.conv3d(dims=("N", 4, "T", "H", "W")), tmp_path / "vae.onnx")
    xs = [small_models.draw((1, 4, 8, 48, 48), seed) for seed in range(4)]
    session = onnxruntime.InferenceSession(path)
    expected = [session.run(None, {"x": x})[0] for x in xs]
    counts = {"200": 0, "429": 0}
    wrong, lock = [], threading.Lock()
    with process(tmp_path, path, "--queue", 16) as (_, address):
        end = time.monotonic() + seconds

        def client(seed):
            while time.monotonic() < end:
                number = (seed + counts["200"]) % 4
                try:
                    y = infer(address, "vae", "x", xs[number])
                    code = "200"
                    if not np.array_equal(y, expected[number]):
                        wrong.append(number)
                except InferenceServerException as error:
                    code = error.status()
                    time.sleep(0.05)
                except Exception as error:
                    code = repr(error)
                with lock:
                    counts[code] = counts.get(code, 0) + 1

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        probe = subprocess.run(
            [sys.executable, "-c", PROBE, address, str(seconds - 2)],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 60,
        )
        for thread in threads:
            thread.join(PATIENCE)
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
    number, median, p99, worst = map(float, probe.stdout.split())
    print(f"{clients} clients, {seconds} s: {counts}; {number:.0f} probes of live:", end=" ")
    print(f"median {median * 1e3:.1f}, p99 {p99 * 1e3:.1f}, worst {worst * 1e3:.1f} ms")
    assert not wrong
    assert set(counts) == {"200", "429"}
    for code, count in counts.items():
        assert count > 0
        line = f'convert_vae_requests_total{{code="{code}",model="vae",protocol="http"}} {count}.0'
        assert line in metrics
    assert p99 < 0.1


def raw_server(data):
    """Answers any request with `data`, from its memory, by a plain socket."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        while True:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"}}"):  # what is left unread would reset the connection
                    asked += connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n"
                connection.sendall(head.encode())
                connection.sendall(data)

    threading.Thread(target=answer, daemon=True).start()
    return listener


def memory(pid, name):
    """Bytes of an entry of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(rf"{name}:\s+(\d+) kB", status.read())[1]) * 1024


def test_the_memory_of_a_100_mb_answer(tmp_path):
    """The tensor is there once: no copy on the way to the socket."""
    path = save(big(), tmp_path / "big.onnx")
    with process(tmp_path, path) as (server, address):
        before = memory(server.pid, "VmRSS")
        y = infer_big(address)
        peak = memory(server.pid, "VmHWM")
    assert len(y) > BIG * 4
    above = (peak - before) / 1e6 - BIG * 4 / 1e6
    print(f"peak above the tensor: {above:.1f} MB")
    assert above < 20


def infer_big(address):
    body = (
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}], '
        b'"parameters": {"binary_data_output": true}}'
    )
    connection = http.client.HTTPConnection(address)
    connection.request("POST", "/v2/models/big/infer", body)
    answer = connection.getresponse()
    assert answer.status == 200
    made = answer.read()
    connection.close()
    return made


@pytest.mark.long
def test_the_time_of_a_100_mb_answer_against_a_raw_socket(tmp_path):
    """Interleaved rounds; computing the tensor is part of the server's time."""
    path = save(big(), tmp_path / "big.onnx")
    listener = raw_server(memoryview(np.full(BIG, 1.5, np.float32)).cast("B"))
    raw_address = f"127.0.0.1:{listener.getsockname()[1]}"
    times = {"served": [], "raw": []}
    with process(tmp_path, path) as (_, address):
        for _ in range(12):
            for name, where in (("served", address), ("raw", raw_address)):
                begun = time.perf_counter()
                infer_big(where)
                times[name].append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(times["served"][2:], times["raw"][2:], strict=True)]
    served, raw = (statistics.median(times[name][2:]) for name in ("served", "raw"))
    print(f"100 MB: served {served:.3f} s, raw socket {raw:.3f} s,", end=" ")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
