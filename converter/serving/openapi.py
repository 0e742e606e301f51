"""What the HTTP side offers, as an OpenAPI document: for readers, generators and fuzzers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from converter.serving.datatypes import ONLY_BINARY
from converter.serving.errors import RequestError
from converter.serving.http_decode import KINDS, MAX_FPS, NPY, decoder_ends
from converter.serving.http_tensors import HEADER_LENGTH
from converter.serving.model import OPEN, VERSION, ServedModel, TensorMetadata
from converter.serving.server import Server
from converter.version import VERSION as PROGRAM_VERSION

_STRING = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
_SIZE = {"type": "integer", "minimum": 1}
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


def document(server: Server) -> dict[str, Any]:
    """The document, OpenAPI 3.1, of these models."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": [*server.models]}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": [VERSION]}}
    metadata = {"type": "object", "required": ["name", "versions", "inputs", "outputs"]}
    paths: dict[str, Any] = {
        "/v2": _get("Server metadata", {"type": "object", "required": ["name", "version"]}),
        "/v2/health/live": _get("Is the process alive"),
        "/v2/health/ready": _get("Does it take requests"),
        "/v2/models/stats": _get("Statistics of all models", {"type": "object"}),
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": _done("text/plain")}},
        "/v2/repository/index": {"post": _index()},
    }
    for path, place in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, version]),
    ):
        paths[path] = {"parameters": place, **_get("Model metadata", metadata)}
        paths[f"{path}/ready"] = {"parameters": place, **_get("Is the model ready")}
        paths[f"{path}/config"] = {
            "parameters": place,
            **_get("Model configuration", {"type": "object"}),
        }
        paths[f"{path}/stats"] = {
            "parameters": place,
            **_get("Model statistics", {"type": "object", "required": ["model_stats"]}),
        }
    for model in server.models.values():
        base = f"/v2/models/{quote(model.name, safe='')}"
        for path in (base, f"{base}/versions/{VERSION}"):
            paths[f"{path}/infer"] = {"post": _infer(model)}
            if _decodes(model):
                paths[f"{path}/decode"] = {"post": _decode(model)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "convert-vae: Open Inference Protocol V2", "version": PROGRAM_VERSION},
        "paths": paths,
    }


def _done(*kinds: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if kinds:
        done["content"] = {
            kind: {"schema": schema} if schema and kind == "application/json" else {}
            for kind in kinds
        }
    return {"200": done, "default": _ERROR}


def _get(summary: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    kinds = ["application/json"] if schema else []
    return {"get": {"summary": summary, "responses": _done(*kinds, schema=schema)}}


def _index() -> dict[str, Any]:
    asked = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    given = {"type": "array", "items": {"type": "object", "required": ["name", "state"]}}
    return {
        "summary": "Models and their states",
        "requestBody": {"content": {"application/json": {"schema": asked}}},
        "responses": _done("application/json", schema=given),
    }


def _infer(model: ServedModel) -> dict[str, Any]:
    kinds = ("application/json", "application/octet-stream")
    return {
        "summary": f"Run {model.name}",
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "description": "Bytes of JSON before the binary tensors; without it all is JSON.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _request(model)},
                "application/octet-stream": {"schema": _BINARY},
            },
        },
        "responses": _done(*kinds, schema=_response(model)),
    }


def _request(model: ServedModel) -> dict[str, Any]:
    outputs = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": _names(model.outputs)},
    }
    parameters = {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": _STRING,
            "parameters": parameters,
            "inputs": _each(model.inputs),
            "outputs": {"type": "array", "items": outputs},
        },
    }


def _response(model: ServedModel) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": model.name},
            "model_version": {"const": VERSION},
            "id": _STRING,
            "outputs": {
                "type": "array",
                "minItems": 1,
                "maxItems": len(model.outputs),
                "items": {
                    "type": "object",
                    "required": ["name", "datatype", "shape"],
                    "properties": {
                        "name": _names(model.outputs),
                        "datatype": {"enum": sorted({one.datatype for one in model.outputs})},
                        "shape": {"type": "array", "items": _SIZE},
                        "data": {"type": "array", "description": "The values, flat."},
                    },
                },
            },
        },
    }


def _each(tensors: Sequence[TensorMetadata]) -> dict[str, Any]:
    """Each of the tensors, in any order."""
    kinds = [_tensor(tensor) for tensor in tensors]
    items = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return {"type": "array", "items": items, "minItems": len(kinds), "maxItems": len(kinds)}


def _tensor(tensor: TensorMetadata) -> dict[str, Any]:
    sizes = [_SIZE if size == OPEN else {"const": size} for size in tensor.shape]
    shape = {"type": "array", "minItems": len(sizes), "maxItems": len(sizes)}
    size = {"type": "integer", "description": "Bytes, behind the JSON.", "minimum": 0}
    properties: dict[str, Any] = {
        "name": {"const": tensor.name},
        "datatype": {"const": tensor.datatype},
        "shape": {**shape, "prefixItems": sizes} if sizes else shape,
        "parameters": {"type": "object", "properties": {"binary_data_size": size}},
    }
    if tensor.datatype not in ONLY_BINARY:
        kind = {"B": "boolean", "F": "number"}.get(tensor.datatype[0], "integer")
        properties["data"] = {
            "type": "array",
            "description": "As many values as the shape has, in any nesting.",
            "items": {"type": ["array", kind]},
        }
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": properties,
    }


def _names(tensors: Sequence[TensorMetadata]) -> dict[str, Any]:
    return {"enum": [tensor.name for tensor in tensors]}


def _decodes(model: ServedModel) -> bool:
    try:
        decoder_ends(model)
    except RequestError:
        return False
    return True


def _decode(model: ServedModel) -> dict[str, Any]:
    latent, _ = decoder_ends(model)
    fps = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_FPS}
    return {
        "summary": f"Decode a latent in a .npy file by {model.name}",
        "parameters": [
            {"name": "fps", "in": "query", "schema": fps},
            {"name": "frame", "in": "query", "schema": {"type": "integer", "minimum": 0}},
        ],
        "requestBody": {
            "required": True,
            "description": f"{latent.datatype} of shape {list(latent.shape)}; -1 is any size.",
            "content": {NPY: {"schema": _BINARY}},
        },
        "responses": _done(*KINDS),
    }
