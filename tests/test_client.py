import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import av
import numpy as np
import pytest

from converter.client import Client
from converter.errors import UserError
from converter.serving.access import Access
from converter.serving.model import open_model
from tests import stream_graphs
from tests.serving.running import running

Z = stream_graphs.latent(5)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = stream_graphs.write(tmp_path_factory.mktemp("client") / "wan.json", 2)
    with running([open_model(path, provider="cpu")], access=Access("secret")) as serving:
        yield f"http://127.0.0.1:{serving.http_port}"


def test_it_decodes(url):
    client = Client(url, "secret")
    video = client.decode("wan", Z)
    # fp32 sums of 216 products of size 1 against float64.
    np.testing.assert_allclose(video, stream_graphs.decode(Z), rtol=0, atol=1e-5)
    with av.open(io.BytesIO(client.video("wan", Z, fps=8))) as container:
        assert container.streams.video[0].average_rate == 8
        assert len(list(container.decode(video=0))) == 5


@pytest.mark.parametrize(
    ("token", "model", "latent", "complaint"),
    [
        ("secret", "nobody", Z, "404: there is no model 'nobody'"),
        ("secret", "wan", Z[0], "400: the input 'latent' is of shape"),
        ("other", "wan", Z, "401: this server needs"),
    ],
)
def test_a_refusal_is_told_at_once(url, token, model, latent, complaint):
    with pytest.raises(UserError, match=complaint):
        Client(url, token, sleep=pytest.fail).decode(model, latent)


def serve(answers):
    """A server that answers by each of `answers` in turn: a status, or None to hang up."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, after = answers.pop(0)
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            if after:
                self.send_header("Retry-After", after)
            body = io.BytesIO()
            np.save(body, np.arange(3.0))
            self.send_header("Content-Length", str(body.tell()))
            self.end_headers()
            self.wfile.write(body.getvalue()[: -1 if status == 206 else None])

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_it_tries_again_when_that_may_help():
    # 206 stands for an answer that is cut off.
    answers = [(429, "7"), (503, ""), (None, ""), (206, ""), (200, "")]
    server = serve(answers)
    pauses = []
    client = Client(f"http://127.0.0.1:{server.server_port}", sleep=pauses.append)
    np.testing.assert_array_equal(client.decode("wan", Z), np.arange(3.0))
    assert answers == []
    assert len(pauses) == 4
    assert 7 <= pauses[0] <= 30
    server.shutdown()


def test_it_gives_up_in_the_end():
    server = serve([(503, "")] * 3)
    address = f"http://127.0.0.1:{server.server_port}"
    client = Client(address, tries=3, sleep=lambda seconds: None)
    with pytest.raises(UserError, match="after 3 tries: 503"):
        client.decode("wan", Z)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"after 3 tries: .*refused"):
        client.decode("wan", Z)
