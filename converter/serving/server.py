"""The models that are served, each with its worker: what HTTP and gRPC have in common."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing

import numpy as np

from converter.errors import UserError
from converter.serving.errors import RequestError, Status, invalid
from converter.serving.inference import InferenceRequest, check_output_size, check_size
from converter.serving.limits import Limits
from converter.serving.metrics import Metrics
from converter.serving.model import VERSION, Results, ServedModel, time_axis
from converter.serving.request_ids import choose
from converter.serving.worker import Worker
from converter.session import Array

log = logging.getLogger("converter.serving")

NAME = "convert-vae"
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "statistics",
)

HANGS = 300.0
"""Seconds after which a node that computes for nobody is not taken for a slow one any more."""

LONGEST_PATH = 200
"""Characters of a path, or of a method of gRPC, in the log."""


class Server:
    """Models by name.

    Args:
        models: At least one, with different names.
        limits: Of every request.
        replica: Of several servers behind one address, which this is; empty for one alone.

    Attributes:
        ready: Whether new requests are taken.
    """

    def __init__(self, models: Sequence[ServedModel], limits: Limits, replica: str = "") -> None:
        names = [model.name for model in models]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise UserError(f"two models are called {min(twice)}: give each another --name.")
        self.models = {model.name: model for model in models}
        self.limits = limits
        self.workers: Mapping[str, Worker[Results]] = {name: Worker(limits.queue) for name in names}
        self.metrics = Metrics(self.workers, replica)  # type: ignore[arg-type]
        self.ready = True

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model that a client asks for; raises `RequestError` if there is none."""
        if name not in self.models:
            raise RequestError(Status.NOT_FOUND, f"there is no model {name!r} here")
        if version not in ("", VERSION):
            raise RequestError(
                Status.NOT_FOUND, f"{name} has no version {version!r}, only {VERSION!r}"
            )
        return self.models[name]

    async def infer(
        self, model: ServedModel, request: InferenceRequest, protocol: str, most: int | None = None
    ) -> AsyncIterator[Results]:
        """The results of a request, one for each chunk of a stream; counted and logged.

        `most` are the bytes that one result can have, where the protocol has such a limit.

        Raises:
            RequestError: the outputs would be too large, the queue is full, the time is up, or the
                values do not fit.
        """
        started = time.perf_counter()
        identifier = request.log_id or choose(request.id)
        code, frames, size = 499, 0, 0
        try:
            shapes = {name: array.shape for name, array in request.inputs.items()}
            check_output_size(model, shapes, request.outputs, self.limits.response)
            worker = self.workers[model.name]
            jobs = worker.results(lambda: _run(model, request), self.limits.timeout)
            async with aclosing(jobs) as results:  # type: ignore[type-var]
                async for result in results:
                    part = sum(result[name].nbytes for name in request.outputs)
                    size += part
                    check_size(size, self.limits.response)
                    check_size(part, self.limits.response if most is None else most)
                    frames += _frames(result)
                    yield result
            code = 200
            self.metrics.decoded(model.name, time.perf_counter() - started, frames)
        except RequestError as error:
            code = error.status.value
            error.counted = True
            raise
        except UserError as error:
            code = Status.INVALID.value
            raise _counted(invalid(str(error).rstrip("."))) from error
        except Exception as error:
            code = Status.INTERNAL.value
            log.exception("a request failed", extra={"model": model.name, "request": identifier})
            failed = RequestError(Status.INTERNAL, "the model failed; the log says why")
            raise _counted(failed) from error
        finally:
            self.metrics.count(model.name, protocol, code)
            log.info(
                "request",
                extra={
                    "model": model.name,
                    "request": identifier,
                    "protocol": protocol,
                    "code": code,
                    "seconds": round(time.perf_counter() - started, 4),
                    "frames": frames,
                },
            )

    async def infer_whole(
        self, model: ServedModel, request: InferenceRequest, protocol: str
    ) -> Results:
        """All results of a request as one: the chunks of a stream joined along T. As `infer`."""
        async with aclosing(self.infer(model, request, protocol)) as parts:  # type: ignore[type-var]
            results = [result async for result in parts]
        if len(results) == 1:
            return results[0]
        return {
            name: await asyncio.to_thread(_joined, [part[name] for part in results])
            for name in results[0]
        }

    def refused(self, protocol: str, code: int, identifier: str, method: str, path: str) -> None:
        """Log and count a request that was refused before it came to a model.

        Its model in the metrics is empty, whatever it asked for, so that no client can make series.
        """
        self.metrics.count("", protocol, code)
        log.info(
            "refused",
            extra={
                "request": choose(identifier),
                "protocol": protocol,
                "code": code,
                "method": method[:LONGEST_PATH],
                "path": path[:LONGEST_PATH],
            },
        )

    async def close(self) -> None:
        """Take no more requests, and finish those that were taken."""
        self.ready = False
        await asyncio.gather(*(worker.close() for worker in self.workers.values()))

    def check_health(self) -> None:
        """Raise `RuntimeError` where a graph hangs: it was to end long ago, and computes on."""
        for name, worker in self.workers.items():
            if worker.unwanted_seconds() > HANGS:
                raise RuntimeError(f"a run of {name} was ended, but goes on since")

    def give_up(self) -> int:
        """Answer what is not finished with 503; returns how many requests that are."""
        return sum(worker.give_up() for worker in self.workers.values())


def _counted(error: RequestError) -> RequestError:
    error.counted = True
    return error


def _run(model: ServedModel, request: InferenceRequest) -> Iterator[Results]:
    return model.run(request.inputs)


def _frames(result: Results) -> int:
    """Frames of the first output that is a video, of rank 5; 0 where none is."""
    return next((array.shape[time_axis(array)] for array in result.values() if array.ndim == 5), 0)


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts, time_axis(parts[0]))
