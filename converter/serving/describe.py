"""What a server says of itself and its models, in the protocol's JSON; gRPC says the same."""

from __future__ import annotations

from typing import Any

from converter.serving.inference import metadata_json
from converter.serving.model import VERSION, ServedModel, TensorMetadata
from converter.serving.server import EXTENSIONS, NAME, Server
from converter.serving.statistics import Duration
from converter.version import VERSION as PROGRAM_VERSION

Json = dict[str, Any]


def server_metadata() -> Json:
    """Of `GET /v2`."""
    return {"name": NAME, "version": PROGRAM_VERSION, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel) -> Json:
    """Of `GET /v2/models/NAME`."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": model.platform,
        "inputs": [metadata_json(tensor) for tensor in model.inputs],
        "outputs": [metadata_json(tensor) for tensor in model.outputs],
    }


def model_config(model: ServedModel) -> Json:
    """Of `GET /v2/models/NAME/config`: the part of Triton's ModelConfig that has a meaning here."""
    return {
        "name": model.name,
        "platform": model.platform,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [_config_tensor(tensor) for tensor in model.inputs],
        "output": [_config_tensor(tensor) for tensor in model.outputs],
        "model_transaction_policy": {"decoupled": model.streams},
        "parameters": {"placement": {"string_value": model.description}},
    }


def statistics(server: Server, model: ServedModel) -> Json:
    """Of one model, as the statistics extension lists it."""
    counted = server.workers[model.name].statistics
    compute = counted.compute
    return {
        "name": model.name,
        "version": VERSION,
        "last_inference": counted.last,
        "inference_count": counted.success.count,
        "execution_count": counted.success.count,
        "inference_stats": {
            "success": _duration(counted.success),
            "fail": _duration(counted.fail),
            "queue": _duration(counted.queue),
            "compute_input": _duration(Duration(compute.count)),
            "compute_infer": _duration(compute),
            "compute_output": _duration(Duration(compute.count)),
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "batch_stats": [],
    }


def repository_index(server: Server, ready_only: bool) -> list[Json]:
    """Of `POST /v2/repository/index`."""
    state = "READY" if server.ready else "UNAVAILABLE"
    if ready_only and not server.ready:
        return []
    return [
        {"name": name, "version": VERSION, "state": state, "reason": ""} for name in server.models
    ]


def _config_tensor(tensor: TensorMetadata) -> Json:
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{tensor.datatype}",
        "dims": list(tensor.shape),
    }


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": duration.ns}
