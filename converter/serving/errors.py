"""What a client did wrong, or cannot have now: a status and a sentence."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """The kinds of failure, each with its HTTP code."""

    INVALID = 400
    NOT_FOUND = 404
    NOT_ACCEPTABLE = 406
    TOO_LARGE = 413
    FULL = 429
    STOPPING = 503
    TIMEOUT = 504
    INTERNAL = 500


class RequestError(Exception):
    """A request that gets no result; the message is for the client.

    `retry_after` is in seconds, and means something where the queue is full. `counted` is whether
    the request came to a model, and was logged and counted as one of that.
    """

    def __init__(self, status: Status, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.counted = False


def invalid(message: str) -> RequestError:
    """The client's mistake."""
    return RequestError(Status.INVALID, message)
