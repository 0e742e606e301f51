"""The Open Inference Protocol over gRPC: the service `inference.GRPCInferenceService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import json_format

from converter.errors import UserError
from converter.serving import describe
from converter.serving.access import REFUSAL, Access
from converter.serving.errors import RequestError, Status
from converter.serving.grpc_tensors import parse, response
from converter.serving.inference import InferenceRequest
from converter.serving.messages import PACKAGE, message
from converter.serving.model import Results, ServedModel
from converter.serving.server import Server

SERVICE = f"{PACKAGE}.GRPCInferenceService"
PROTOCOL = "grpc"

MAX_MESSAGE = (1 << 31) - 1
"""Bytes that a protobuf message, and so a response, can have."""

_OVERHEAD = 1 << 20
"""Bytes of a request beside its tensors."""

UNAUTHENTICATED = 401

_CODES: Mapping[Status, grpc.StatusCode] = {
    Status.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Status.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Status.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.FULL: grpc.StatusCode.UNAVAILABLE,
    Status.STOPPING: grpc.StatusCode.UNAVAILABLE,
    Status.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Status.INTERNAL: grpc.StatusCode.INTERNAL,
}

Unary = Callable[[Any], Awaitable[Any]]


def grpc_server(
    server: Server,
    host: str,
    port: int,
    access: Access,
    chain_and_key: tuple[bytes, bytes] | None = None,
) -> tuple[grpc.aio.Server, int]:
    """A server that is ready to start, and the port that it took (of its own choice for 0).

    Raises:
        UserError: the port is taken, or the certificate does not load.
    """
    listening = grpc.aio.server(
        options=[
            (
                "grpc.max_receive_message_length",
                min(MAX_MESSAGE, server.limits.request + _OVERHEAD),
            ),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
        ],
        interceptors=[_Guard(access, server)] if access.token is not None else [],
    )
    listening.add_generic_rpc_handlers((_handlers(server),))
    bracketed = f"[{host}]" if ":" in host else host
    try:
        if chain_and_key is None:
            taken = listening.add_insecure_port(f"{bracketed}:{port}")
        else:
            chain, key = chain_and_key
            credentials = grpc.ssl_server_credentials([(key, chain)])
            taken = listening.add_secure_port(f"{bracketed}:{port}", credentials)
    except RuntimeError as error:
        raise UserError(f"cannot listen on {host} port {port} for gRPC: {error}.") from error
    return listening, taken


def _handlers(server: Server) -> grpc.GenericRpcHandler:
    calls = _Calls(server)
    unary: Mapping[str, tuple[Unary, str, str]] = {
        "ServerLive": (calls.live, "ServerLiveRequest", "ServerLiveResponse"),
        "ServerReady": (calls.ready, "ServerReadyRequest", "ServerReadyResponse"),
        "ModelReady": (calls.model_ready, "ModelReadyRequest", "ModelReadyResponse"),
        "ServerMetadata": (calls.metadata, "ServerMetadataRequest", "ServerMetadataResponse"),
        "ModelMetadata": (calls.model_metadata, "ModelMetadataRequest", "ModelMetadataResponse"),
        "ModelConfig": (calls.config, "ModelConfigRequest", "ModelConfigResponse"),
        "ModelStatistics": (
            calls.statistics,
            "ModelStatisticsRequest",
            "ModelStatisticsResponse",
        ),
        "RepositoryIndex": (calls.index, "RepositoryIndexRequest", "RepositoryIndexResponse"),
        "ModelInfer": (calls.infer, "ModelInferRequest", "ModelInferResponse"),
    }
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            calls.refusing(name, call),
            request_deserializer=message(asked).FromString,
            response_serializer=message(answered).SerializeToString,
        )
        for name, (call, asked, answered) in unary.items()
    }
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        calls.stream_infer,
        request_deserializer=message("ModelInferRequest").FromString,
        response_serializer=message("ModelStreamInferResponse").SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class _Calls:
    def __init__(self, server: Server) -> None:
        self._server = server

    def refusing(
        self, method: str, call: Unary
    ) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
        """A `RequestError` as the status of the call."""

        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await call(request)
            except RequestError as error:
                self._count(error, method, request)
                await context.abort(_CODES[error.status], str(error))

        return handle

    async def live(self, request: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def ready(self, request: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._server.ready)

    async def model_ready(self, request: Any) -> Any:
        self._server.model(request.name, request.version)
        return message("ModelReadyResponse")(ready=self._server.ready)

    async def metadata(self, request: Any) -> Any:
        return _message("ServerMetadataResponse", describe.server_metadata())

    async def model_metadata(self, request: Any) -> Any:
        model = self._server.model(request.name, request.version)
        return _message("ModelMetadataResponse", describe.model_metadata(model))

    async def config(self, request: Any) -> Any:
        model = self._server.model(request.name, request.version)
        return _message("ModelConfigResponse", {"config": describe.model_config(model)})

    async def statistics(self, request: Any) -> Any:
        models = list(self._server.models.values())
        if request.name:
            models = [self._server.model(request.name, request.version)]
        stats = [describe.statistics(self._server, model) for model in models]
        return _message("ModelStatisticsResponse", {"model_stats": stats})

    async def index(self, request: Any) -> Any:
        models = describe.repository_index(self._server, request.ready)
        return _message("RepositoryIndexResponse", {"models": models})

    async def infer(self, asked: Any) -> Any:
        model = self._server.model(asked.model_name, asked.model_version)
        if model.streams:
            raise RequestError(
                Status.INVALID, f"{model.name} is a stream: ask for it by ModelStreamInfer"
            )
        request = parse(model, asked)
        async with aclosing(self._infer(model, request)) as results:  # type: ignore[type-var]
            (result,) = [result async for result in results]
        return response(model, request, result, final=True)

    async def stream_infer(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Answer the requests of a stream one after the other.

        A stream model has a response a chunk. As with Triton, the client learns which is the last
        by an empty one, if its request has the parameter `triton_enable_empty_final_response`.
        """
        made = message("ModelStreamInferResponse")
        async for asked in requests:
            try:
                model = self._server.model(asked.model_name, asked.model_version)
                request = parse(model, asked)
                async with aclosing(self._infer(model, request)) as results:  # type: ignore[type-var]
                    async for result in results:
                        one = response(model, request, result, final=not model.streams)
                        yield made(infer_response=one)
                if model.streams and request.parameters.get("triton_enable_empty_final_response"):
                    yield made(infer_response=response(model, request, {}, final=True))
            except RequestError as error:
                self._count(error, "ModelStreamInfer", asked)
                failed = message("ModelInferResponse")(id=asked.id, model_name=asked.model_name)
                yield made(error_message=str(error), infer_response=failed)

    def _count(self, error: RequestError, method: str, request: Any) -> None:
        if not error.counted:
            identifier = getattr(request, "id", "")
            self._server.refused(PROTOCOL, error.status.value, identifier, method, f"/{SERVICE}")

    def _infer(self, model: ServedModel, request: InferenceRequest) -> AsyncIterator[Results]:
        return self._server.infer(model, request, PROTOCOL, most=MAX_MESSAGE - _OVERHEAD)


def _message(name: str, content: Mapping[str, Any]) -> Any:
    return json_format.ParseDict(dict(content), message(name)())


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses every call without the token."""

    def __init__(self, access: Access, server: Server) -> None:
        self._access = access
        self._server = server

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        given = dict(details.invocation_metadata).get("authorization")
        if self._access.allows(given):
            return await continuation(details)

        service, _, method = details.method.strip("/").partition("/")
        self._server.refused(PROTOCOL, UNAUTHENTICATED, "", method, f"/{service}")

        async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)

        return grpc.unary_unary_rpc_method_handler(refuse)
