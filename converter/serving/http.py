"""The Open Inference Protocol over HTTP, as a Starlette application."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from converter.serving import describe, http_decode
from converter.serving.connection import unless_gone
from converter.serving.errors import RequestError, Status
from converter.serving.http_tensors import HEADER_LENGTH, Body, parse, ready_alone, response
from converter.serving.limits import read_body
from converter.serving.metrics import CONTENT_TYPE
from converter.serving.model import ServedModel
from converter.serving.openapi import document
from converter.serving.page import page
from converter.serving.request_ids import identify
from converter.serving.server import Server

Handler = Callable[[Request], Awaitable[Response]]

PROTOCOL = "http"

GZIP_LEVEL = 1
"""The fastest: float tensors hardly compress."""


def application(server: Server) -> Starlette:
    """The routes of a server; what goes wrong is a JSON object with a sentence under `error`."""
    handlers = _Handlers(server)
    model, versioned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    routes = [
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2", handlers.server_metadata),
        Route("/v2/models/stats", handlers.statistics),
        Route("/v2/repository/index", handlers.repository_index, methods=["POST"]),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
        Route("/", handlers.page),
    ]
    for prefix in (model, versioned):
        routes += [
            Route(prefix, handlers.model_metadata),
            Route(f"{prefix}/ready", handlers.model_ready),
            Route(f"{prefix}/config", handlers.model_config),
            Route(f"{prefix}/stats", handlers.statistics),
            Route(f"{prefix}/infer", handlers.infer, methods=["POST"]),
            Route(f"{prefix}/decode", handlers.decode, methods=["POST"]),
        ]
    return Starlette(
        routes=routes,
        exception_handlers={RequestError: _say, HTTPException: _say_http},  # type: ignore[dict-item]
    )


class _Handlers:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def live(self, request: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._server.ready else 503)

    async def server_metadata(self, request: Request) -> Response:
        return JSONResponse(describe.server_metadata())

    async def model_metadata(self, request: Request) -> Response:
        return JSONResponse(describe.model_metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        self._model(request)
        return await self.ready(request)

    async def model_config(self, request: Request) -> Response:
        return JSONResponse(describe.model_config(self._model(request)))

    async def statistics(self, request: Request) -> Response:
        models: Iterable[ServedModel] = self._server.models.values()
        if "name" in request.path_params:
            models = [self._model(request)]
        stats = [describe.statistics(self._server, model) for model in models]
        return JSONResponse({"model_stats": stats})

    async def repository_index(self, request: Request) -> Response:
        body = await self._body(request)
        ready_only = await run_in_threadpool(ready_alone, body)
        return JSONResponse(describe.repository_index(self._server, ready_only))

    async def metrics(self, request: Request) -> Response:
        return Response(self._server.metrics.text(), media_type=CONTENT_TYPE)

    async def infer(self, request: Request) -> Response:
        model = self._model(request)
        body = await self._body(request)
        asked = await run_in_threadpool(
            parse, model, body, request.headers.get(HEADER_LENGTH.lower())
        )
        named = replace(asked.request, log_id=identify(request, asked.request.id))
        results = await unless_gone(request, self._server.infer_whole(model, named, PROTOCOL))
        made = await run_in_threadpool(response, model, asked, results)
        return _send(made, request.headers.get("accept-encoding", ""))

    async def decode(self, request: Request) -> Response:
        model = self._model(request)
        asked = http_decode.asked(model, request)
        body = await self._body(request)
        return await http_decode.decode(self._server, model, asked, request, body)

    async def page(self, request: Request) -> Response:
        return page()

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self._server))

    async def _body(self, request: Request) -> memoryview:
        headers = request.headers
        return await read_body(
            request.stream(),
            headers.get("content-encoding", "").lower(),
            headers.get("content-length"),
            self._server.limits.request,
        )

    def _model(self, request: Request) -> ServedModel:
        return self._server.model(
            request.path_params["name"], request.path_params.get("version", "")
        )


def _send(body: Body, accepted: str) -> Response:
    media = "application/octet-stream" if body.tensors else "application/json"
    headers = {HEADER_LENGTH: str(len(body.header))} if body.tensors else {}
    encoding = _encoding(accepted)
    if encoding is None:
        headers["Content-Length"] = str(body.length)
        return StreamingResponse(_chunks(body), headers=headers, media_type=media)
    headers["Content-Encoding"] = encoding
    return StreamingResponse(_compressed(body, encoding), headers=headers, media_type=media)


def _encoding(accepted: str) -> str | None:
    """The compression to answer with: one that is asked for, and no other is.

    Every browser and most clients accept gzip without wishing it for 100 MB of floats, and name
    others beside it.
    """
    wanted = accepted.strip().lower()
    return wanted if wanted in ("gzip", "deflate") else None


async def _chunks(body: Body) -> AsyncIterator[memoryview]:
    for chunk in body.chunks():
        yield chunk


async def _compressed(body: Body, encoding: str) -> AsyncIterator[bytes]:
    window = 31 if encoding == "gzip" else 15
    deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, window)
    for chunk in body.chunks():
        made = await run_in_threadpool(deflate.compress, chunk)
        if made:
            yield made
    yield deflate.flush()


async def _say(request: Request, error: RequestError) -> Response:
    request.state.counted = error.counted
    headers = {}
    if error.status is Status.FULL:
        headers["Retry-After"] = str(error.retry_after)
    if error.status is Status.TOO_LARGE:
        headers["Connection"] = "close"  # or the rest of the body would be read all the same
    return JSONResponse({"error": str(error)}, error.status.value, headers)


async def _say_http(request: Request, error: HTTPException) -> Response:
    sentence = {404: f"there is no {request.url.path} here", 405: "this path takes another method"}
    return JSONResponse(
        {"error": sentence.get(error.status_code, error.detail)}, error.status_code, error.headers
    )
