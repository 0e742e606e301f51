"""Requests as bytes, by the standard library."""

import http.client
import json


def body(data):
    return data if isinstance(data, bytes | bytearray | None) else json.dumps(data).encode()


def ask(served, method, path, data=None, headers=None):
    """Status, body and headers of the answer."""
    connection = http.client.HTTPConnection(served.http, timeout=30)
    try:
        connection.request(method, path, body(data), headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()
