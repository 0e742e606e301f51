"""Requests as bytes, by the standard library."""

import http.client
import json
from contextlib import contextmanager

from tests.patience import PATIENCE


@contextmanager
def hanging_up(port, path, data):
    """Within, a client waits for the answer; then it leaves."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, body(data))
    yield
    connection.close()


def body(data):
    return data if isinstance(data, bytes | bytearray | None) else json.dumps(data).encode()


def ask(served, method, path, data=None, headers=None):
    """Status, body and headers of the answer."""
    connection = http.client.HTTPConnection(served.http, timeout=PATIENCE)
    try:
        connection.request(method, path, body(data), headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()
