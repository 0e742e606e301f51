"""The command in a process of its own; tokens; TLS; the order in which things stop."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnx
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import trustme
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from converter.cli.serve_vae import main
from converter.serving.access import Access
from converter.serving.lifecycle import Certificate
from tests import small_models
from tests.cli.command import HERE, assert_refused, process
from tests.patience import PATIENCE, until
from tests.serving.running import running, stop
from tests.serving.slow_model import SlowModel
from tests.small_models import save

FREE = ("--http-port", "0", "--grpc-port", "0", "--provider", "cpu")


@pytest.fixture
def graph(tmp_path):
    return save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), tmp_path / "vae.onnx")


class Command:
    """`serve-vae` on free ports; the lines of its log as they come."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "converter.cli.serve_vae", *map(str, arguments), *FREE],
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
        )
        self.said = []
        while not (self.said and self.said[-1].startswith("serving on")):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said.append(line)
        self.http, self.grpc = map(int, re.findall(r":(\d+)", self.said[-1]))

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        try:
            _, rest = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()  # of no effect on one that has ended
        return self.process.returncode, [json.loads(line) for line in rest.splitlines()]


def an_input(x, library=triton_http):
    made = library.InferInput("x", list(x.shape), "FP32")
    made.set_data_from_numpy(x)
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_command_serves_until_it_is_stopped_and_logs_its_requests(graph, number):
    command = Command(graph, "--name", "decoder")
    assert command.said[0].startswith("decoder: onnxruntime ")
    client = triton_http.InferenceServerClient(f"127.0.0.1:{command.http}")
    x = small_models.draw((1, 4, 2, 6, 8), 3)
    client.infer("decoder", [an_input(x)], request_id="a7")
    with pytest.raises(InferenceServerException):
        triton_grpc.InferenceServerClient(f"127.0.0.1:{command.grpc}").get_model_metadata("vae")
    client.close()
    code, log = command.stop(number)
    assert code == 0
    (request,) = [line for line in log if line["message"] == "request"]
    assert {key: request[key] for key in ("level", "model", "request", "protocol", "code")} == {
        "level": "INFO",
        "model": "decoder",
        "request": "a7",
        "protocol": "http",
        "code": 200,
    }
    assert request["seconds"] > 0


def test_stopping_under_load_answers_everything_that_was_taken(graph):
    command = Command(graph, "--queue", "1000")
    x = small_models.draw((1, 4, 40, 6, 8), 3)
    replies, refused = [], []

    def ask():
        with triton_http.InferenceServerClient(f"127.0.0.1:{command.http}") as client:
            while True:
                try:
                    replies.append(client.infer("vae", [an_input(x)]).as_numpy("y").shape)
                except (InferenceServerException, OSError) as error:
                    refused.append(error)
                    return

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(replies) >= 40 or refused)
    assert not refused
    code, log = command.stop()
    for thread in threads:
        thread.join(PATIENCE)
    assert code == 0
    answered = [line for line in log if line.get("code") == 200]
    assert len(answered) == len(replies)
    assert all(line.get("code") in (200, 503) for line in log if line["message"] == "request")


def endless(path):
    """x (1, 2) -> y: adds 1 to x as often as nobody can wait for."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go.on"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            small_models.value("sum", (1, 2)),
        ],
        [
            helper.make_tensor_value_info("go.on", TensorProto.BOOL, []),
            small_models.value("more", (1, 2)),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(2**60), "count"),
        numpy_helper.from_array(np.array(True), "true"),
        numpy_helper.from_array(np.float32(1), "one"),
    ]
    loop = helper.make_node("Loop", ["count", "true", "x"], ["y"], body=body)
    ends = small_models.value("x", (1, 2)), small_models.value("y", (1, 2))
    graph = helper.make_graph([loop], "g", [ends[0]], [ends[1]], constants)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_when_the_grace_time_is_over_it_goes_though_a_graph_still_runs(tmp_path):
    command = Command(endless(tmp_path / "endless.onnx"), "--grace", "0.5")
    url = f"http://127.0.0.1:{command.http}/v2/models/endless"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}]}
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(requests.post, f"{url}/infer", json=body, timeout=PATIENCE)
            for _ in range(2)
        ]
        waiting = 'convert_vae_queue_depth{model="endless"} 1.0'
        metrics = f"http://127.0.0.1:{command.http}/metrics"
        # So the other one runs.
        until(lambda: waiting in requests.get(metrics, timeout=PATIENCE).text)
        code, log = command.stop()
        replies = [one.result() for one in asked]
    assert code == 1
    assert [reply.status_code for reply in replies] == [503, 503]
    assert replies[0].json()["error"] == "the server has stopped before it was done"
    (over,) = [line for line in log if line["message"] == "the grace time is over"]
    assert over["unfinished"] == 2
    assert [line["code"] for line in log if line["message"] == "request"] == [503, 503]


def test_while_stopping_it_is_alive_but_not_ready_and_takes_nothing_new():
    model = SlowModel()
    other = SlowModel()
    other.name = "other"
    with running([model, other]) as serving:
        url = f"http://127.0.0.1:{serving.http_port}/v2"
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]}
        replies = []
        thread = threading.Thread(
            target=lambda: replies.append(
                requests.post(f"{url}/models/slow/infer", json=body, timeout=PATIENCE)
            )
        )
        thread.start()
        assert model.begun.acquire(timeout=PATIENCE)
        stop(serving)
        while requests.get(f"{url}/health/ready", timeout=PATIENCE).status_code == 200:
            pass
        assert requests.get(f"{url}/health/live", timeout=PATIENCE).status_code == 200
        for name in ("slow", "other"):
            late = requests.post(f"{url}/models/{name}/infer", json=body, timeout=PATIENCE)
            assert (late.status_code, late.json()["error"]) == (503, "the server is stopping")
        model.let.set()
        thread.join(PATIENCE)
        assert replies[0].json()["outputs"][0]["data"] == [3.0]


def test_a_token_is_asked_of_everything_but_health():
    with running([SlowModel()], access=Access("s3cret")) as serving:
        url = f"http://127.0.0.1:{serving.http_port}"
        assert requests.get(f"{url}/v2/health/ready", timeout=PATIENCE).status_code == 200
        for given in (None, "Bearer wrong", "s3cret", "Bearer s3cret"):
            headers = {"Authorization": given} if given else {}
            reply = requests.get(f"{url}/v2", headers=headers, timeout=PATIENCE)
            expected = 200 if given == "Bearer s3cret" else 401
            assert reply.status_code == expected
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{serving.grpc_port}")
        with pytest.raises(InferenceServerException, match="Authorization: Bearer TOKEN"):
            client.get_server_metadata()
        right = {"authorization": "Bearer s3cret"}
        assert client.get_server_metadata(headers=right).name == "convert-vae"


def test_tls_on_both_ports(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = Certificate(tmp_path / "chain.pem", tmp_path / "key.pem")
    with running([SlowModel()], certificate=certificate) as serving:
        url = f"https://127.0.0.1:{serving.http_port}/v2"
        assert requests.get(url, verify=tmp_path / "ca.pem", timeout=PATIENCE).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=PATIENCE)
        credentials = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        client = triton_grpc.InferenceServerClient(
            f"localhost:{serving.grpc_port}", ssl=True, creds=credentials
        )
        assert client.is_server_live()


def test_bad_input(graph, tmp_path):
    def serve(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    assert_refused(serve(tmp_path / "none.onnx"), "none.onnx")
    assert_refused(serve(graph, graph, "--name", "a"), "2 models, but 1 names")
    (tmp_path / "empty").write_text("\n")
    assert_refused(serve(graph, "--token-file", tmp_path / "empty"), "holds no token")
    assert_refused(serve(graph, "--tls-cert", graph), "both --tls-cert and --tls-key")
    assert_refused(serve(graph, "--tls-cert", graph, "--tls-key", tmp_path / "x"), "does not exist")


def test_what_keeps_it_from_listening(graph):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, complaint in [
            ((graph, graph, *FREE), "two models are called vae"),
            ((graph, "--tls-cert", graph, "--tls-key", graph, *FREE), "does not load"),
            ((graph, "--http-port", port), f"cannot listen on 127.0.0.1 port {port}: Address"),
            ((graph, *FREE, "--grpc-port", port), f"127.0.0.1 port {port} for gRPC"),
        ]:
            done = process(*arguments, code="from converter.cli.serve_vae import main; main()")
            assert done.returncode == 2, done.stderr
            (complained,) = [line for line in done.stderr.splitlines() if "error: " in line]
            assert complained.startswith("error: ")
            assert complaint in complained
