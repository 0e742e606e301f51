"""What the HTTP side offers, as an OpenAPI document: for readers, generators and fuzzers."""

from __future__ import annotations

from typing import Any

from converter.version import VERSION

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
_PARAMETERS = {"type": "object"}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "datatype": {"type": "string"},
        "parameters": _PARAMETERS,
        "data": {"type": "array"},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
            },
        },
    },
}
_ERROR = {
    "description": "Refused; `error` says why.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    },
}


def document() -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    paths: dict[str, Any] = {
        "/v2": _get("Server metadata"),
        "/v2/health/live": _get("Is the process alive", None),
        "/v2/health/ready": _get("Does it take requests", None),
        "/v2/models/stats": _get("Statistics of all models"),
        "/metrics": _get("Prometheus metrics", "text/plain"),
        "/v2/repository/index": {"post": _index()},
    }
    for path, place in (
        ("/v2/models/{name}", [_NAME]),
        ("/v2/models/{name}/versions/{version}", [_NAME, _VERSION]),
    ):
        paths[path] = {"parameters": place, **_get("Model metadata")}
        paths[f"{path}/ready"] = {"parameters": place, **_get("Is the model ready", None)}
        paths[f"{path}/config"] = {"parameters": place, **_get("Model configuration")}
        paths[f"{path}/stats"] = {"parameters": place, **_get("Model statistics")}
        paths[f"{path}/infer"] = {"parameters": place, "post": _infer()}
        paths[f"{path}/decode"] = {"parameters": place, "post": _decode()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "convert-vae: Open Inference Protocol V2", "version": VERSION},
        "paths": paths,
    }


def _responses(*kinds: str) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if kinds:
        done["content"] = {kind: {} for kind in kinds}
    return {"200": done, "default": _ERROR}


def _get(summary: str, kind: str | None = "application/json") -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(*([kind] if kind else []))}}


def _index() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    return {
        "summary": "Models and their states",
        "requestBody": {"content": {"application/json": {"schema": schema}}},
        "responses": _responses("application/json"),
    }


def _infer() -> dict[str, Any]:
    return {
        "summary": "Run a model",
        "parameters": [
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Bytes of JSON before the binary tensors.",
                "schema": {"type": "integer"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _REQUEST}, "application/octet-stream": {}},
        },
        "responses": _responses("application/json", "application/octet-stream"),
    }


def _decode() -> dict[str, Any]:
    return {
        "summary": "Decode a latent in a .npy file",
        "parameters": [
            {"name": "fps", "in": "query", "schema": {"type": "number", "maximum": 1000}},
            {"name": "frame", "in": "query", "schema": {"type": "integer", "minimum": 0}},
        ],
        "requestBody": {"required": True, "content": {"application/x-npy": {}}},
        "responses": _responses("video/mp4", "image/png", "application/x-npy"),
    }
