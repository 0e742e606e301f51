"""`serve-vae --ray`, as a process of its own, in a network namespace of its own.

One server for the whole module: Ray takes some 10 s to start. The tests go on from each other in
their order; the last one stops it.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from converter.client import Client
from converter.runtime import Decoder
from tests import small_models, stream_graphs
from tests.cli.command import HERE, assert_refused, process
from tests.loopback import loopback_only
from tests.patience import PATIENCE, until
from tests.ray_processes import TWO_CORES, children, need_ray, only_one, running
from tests.serving.test_decode import npy
from tests.small_models import save

TOKEN = "s3cret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
need_ray()
ROUNDS = 10_000
"""Around the loop of `stream_graphs.with_wait`, each chunk: some milliseconds."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two replicas with the graph `vae` and the stream `wan`."""
    folder = tmp_path_factory.mktemp("ray")
    graph = save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), folder / "vae.onnx")
    stream = stream_graphs.write(folder / "wan.json", chunk=2, wait=True)
    (folder / "token").write_text(TOKEN)
    temporary = tempfile.mkdtemp(prefix="t", dir="/tmp")  # short, as Ray's sockets need it
    arguments = [graph, stream, "--provider", "cpu", "--http-port", 0, "--ray", "--replicas", 2]
    arguments += ["--token-file", folder / "token", "--max-request", 1]
    log = folder / "log"
    with only_one(), loopback_only(), log.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-m", "converter.cli.serve_vae", *map(str, arguments)],
            stdout=stderr,
            stderr=stderr,
            cwd=HERE,
            env={**os.environ, **TWO_CORES, "TMPDIR": str(temporary), "HOME": str(folder)},
        )
        try:
            address = re.compile(r"serving on http://(\S+?:\d+) by Ray")
            until(lambda: address.search(log.read_text()) or server.poll() is not None)
            found = address.search(log.read_text())
            assert found, log.read_text()
            yield SimpleNamespace(
                process=server,
                http=found[1],
                graph=graph,
                stream=stream,
                log=log,
                temporary=temporary,
            )
        finally:
            if server.poll() is None:
                server.terminate()
                server.wait(PATIENCE)
            shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(served.http, network_timeout=PATIENCE) as made:
        yield made


def infer(client, x, **options):
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    # The client adds to the headers it is given.
    return client.infer("vae", [tensor], headers=dict(HEADERS), **options)


def truth(served, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(served.graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_the_same_client_as_of_the_server_on_one_machine(served, client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vae", "1", headers=HEADERS)
    assert client.get_server_metadata(headers=HEADERS)["name"] == "convert-vae"
    assert client.get_model_metadata("vae", headers=HEADERS)["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [-1, 8, -1, 6, 8]}
    ]
    for frames in (1, 7, 150):  # the last one's body passes in several messages
        x = small_models.draw((1, 4, frames, 6, 8), frames)
        assert np.array_equal(infer(client, x).as_numpy("y"), truth(served, x))
    zipped = infer(client, x, response_compression_algorithm="gzip")
    assert np.array_equal(zipped.as_numpy("y"), truth(served, x))


def test_decode(served):
    latent = stream_graphs.latent(5)
    url = f"http://{served.http}"
    video = Client(url, TOKEN).decode("wan", latent)
    assert np.array_equal(video, Decoder(served.stream, "cpu").decode(latent))
    film = requests.post(
        f"{url}/v2/models/wan/decode", data=npy(latent), headers=HEADERS, timeout=PATIENCE
    )
    assert film.headers["Content-Type"] == "video/mp4"
    assert film.content[4:8] == b"ftyp"


def test_what_is_refused(served, client):
    with pytest.raises(InferenceServerException, match="Authorization: Bearer TOKEN"):
        client.get_server_metadata()
    with pytest.raises(InferenceServerException, match="there is no model 'other' here"):
        client.get_model_metadata("other", headers=HEADERS)
    url = f"http://{served.http}/v2/models/vae/infer"
    big = requests.post(url, data=bytes(2**20 + 1), headers=HEADERS, timeout=PATIENCE)
    assert (big.status_code, list(big.json())) == (413, ["error"])
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield bytes(2**16)

    with suppress(requests.exceptions.ConnectionError):  # it may hang up before all is sent
        assert (
            requests.post(url, data=endless(), headers=HEADERS, timeout=PATIENCE).status_code == 413
        )
    print(f"endless request: {len(taken) / 16} MiB taken")
    assert len(taken) < 2000
    bad = requests.post(
        url, data=b"{", headers={**HEADERS, "X-Request-ID": "r-1"}, timeout=PATIENCE
    )
    assert (bad.status_code, bad.headers["X-Request-ID"]) == (400, "r-1")
    of_models = {("200", "vae"), ("200", "wan")}
    wanted = of_models | {(code, "") for code in ("400", "401", "404", "413")}
    found = set()
    for _ in range(100):  # each time of one of the two replicas
        metrics = requests.get(
            f"http://{served.http}/metrics", headers=HEADERS, timeout=PATIENCE
        ).text
        lines = re.findall(r'code="(\d+)",model="(\w*)",protocol="http",replica="\w+"', metrics)
        found |= set(lines)
        if found == wanted:
            break
    assert found == wanted


ASK_WITHOUT_TOKEN = """
import sys, grpc
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
try:
    channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=60)
except grpc.RpcError as error:
    print(error.code())
"""


def test_what_listens(served):
    """All on 127.0.0.1, but for a port of each replica, which wants Ray's own token."""
    everywhere = []
    for table, nowhere in (("tcp", "00000000"), ("tcp6", "0" * 32)):
        for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if state == "0A" and address == nowhere:
                everywhere.append(int(port, 16))
    assert len(everywhere) == 2
    # gRPC's threads may be of another test, and outside of this one's namespace.
    for port in everywhere:
        asked = subprocess.run(
            [sys.executable, "-c", ASK_WITHOUT_TOKEN, str(port)], capture_output=True, text=True
        )
        assert asked.stdout.strip() == "StatusCode.UNAUTHENTICATED", asked.stderr


def test_nothing_is_lost_when_a_replica_is_killed(served):
    """By a client that tries again."""
    latents = [stream_graphs.latent(frames) for frames in (5, 6, 7)]
    videos = [Decoder(served.stream, "cpu").decode(latent) for latent in latents]
    asking = Client(f"http://{served.http}", TOKEN, timeout=PATIENCE)
    right, wrong = [], []
    over = threading.Event()

    def ask(number):
        while not over.is_set():
            try:
                video = asking.decode("wan", latents[number % 3])
            except Exception as error:
                wrong.append(repr(error))
                return
            (right if np.array_equal(video, videos[number % 3]) else wrong).append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    before = children(served.process.pid, "ray::ServeReplica")
    assert len(before) == 2
    until(lambda: len(right) >= 20 or wrong)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: wrong or set(children(served.process.pid, "ray::ServeReplica")) - set(before))
    answered = len(right)
    until(lambda: len(right) >= answered + 20 or wrong)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []
    print(f"{len(right)} answers")


def test_sigterm_finishes_what_was_taken_and_leaves_nothing(served):
    """Also no file, but for onnxruntime's own."""
    ours = children(served.process.pid, "ray")
    assert len(ours) > 6
    latent = stream_graphs.latent(401)
    latent[:, :, 200:] = ROUNDS
    url = f"http://{served.http}/v2/models/wan/decode"
    with requests.post(
        url, data=npy(latent), headers=HEADERS, timeout=PATIENCE, stream=True
    ) as answer:
        assert answer.status_code == 200
        parts = answer.iter_content(None)
        film = next(parts)
        served.process.terminate()
        film += b"".join(parts)
    assert served.process.wait(PATIENCE) == 0
    with av.open(io.BytesIO(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 401
    until(lambda: not running(ours))
    said = served.log.read_text()
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("(ServeReplica:")]
    requests_seen = [json.loads(line.partition(") ")[2]) for line in lines if '"message"' in line]
    assert {line["code"] for line in requests_seen} >= {200, 400, 401, 413}
    assert set(os.listdir(served.temporary)) <= {".ses"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--replicas", "2"], "--replicas and --dashboard are for --ray"),
        (["--dashboard"], "--replicas and --dashboard are for --ray"),
        (["--ray", "--replicas", "0"], "--replicas 0 is no number or range such as 2 or 1..4"),
        (["--ray", "--replicas", "4..2"], "--replicas 4..2 is no number or range"),
        (["--ray", "--grpc-port", "9"], "--grpc-port does not apply with --ray"),
        (["--ray", "--host", "0.0.0.0"], "--ray on 0.0.0.0 needs --token-file"),
        (["--ray", "--host", "ray.example"], "--ray on ray.example needs --token-file"),
    ],
)
def test_bad_usage(tmp_path, arguments, complaint):
    graph = save(small_models.conv3d(), tmp_path / "vae.onnx")
    done = process(graph, *arguments, code="from converter.cli.serve_vae import main; main()")
    assert_refused(done, complaint)


def test_a_certificate_that_does_not_load(tmp_path):
    graph = save(small_models.conv3d(), tmp_path / "vae.onnx")
    arguments = [graph, "--provider", "cpu", "--http-port", 0, "--ray"]
    code = "from converter.cli.serve_vae import main; main()"
    done = process(*arguments, "--tls-cert", graph, "--tls-key", graph, code=code)
    assert done.returncode == 2
    assert "the certificate or its key does not load" in done.stderr.splitlines()[-1]


def test_without_ray(tmp_path):
    graph = save(small_models.conv3d(), tmp_path / "vae.onnx")
    code = "import sys; sys.modules['ray'] = None; from converter.cli.serve_vae import main; main()"
    done = process(graph, "--provider", "cpu", "--ray", code=code)
    assert done.returncode == 2
    (*_, line) = done.stderr.splitlines()
    assert line == "error: --ray needs ray; install it by pip install 'convert-vae[ray]'."
