"""A model repository for NVIDIA's Triton server, to be run by its onnxruntime backend.

REPOSITORY/NAME/config.pbtxt
REPOSITORY/NAME/1/model.onnx (and model.onnx.data)

The text is of `message ModelConfig` in triton-inference-server/common, protobuf/model_config.proto.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.text_encoding import CEscape
from onnx import TensorProto

from converter import manifest, model_file
from converter.errors import UserError
from converter.manifest import FIRST, NEXT, is_manifest
from converter.model_file import DataFile, Model, wants_external

MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.pbtxt"

KINDS = ("auto", "cpu", "gpu")
"""Where Triton runs an instance: `KIND_AUTO`, `KIND_CPU`, `KIND_GPU`."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.UINT16: "TYPE_UINT16",
    TensorProto.UINT32: "TYPE_UINT32",
    TensorProto.UINT64: "TYPE_UINT64",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT16: "TYPE_INT16",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.STRING: "TYPE_STRING",
}


@dataclass(frozen=True)
class Instances:
    """How many copies of a model Triton runs side by side, and on what: one of `KINDS`."""

    count: int = 1
    kind: str = "auto"


@dataclass(frozen=True)
class Exported:
    """One version of one model that was put into a repository."""

    name: str
    version: int
    folder: Path


def export(
    source: Path, repository: Path, name: str | None = None, instances: Instances = Instances()
) -> list[Exported]:
    """Add a graph to a model repository, as the next version of the model `name`.

    Args:
        source: An ONNX file, or the manifest of a decoder in stream form: that becomes two models,
            NAME_first and NAME_next, whose caches are ordinary inputs and outputs.
        repository: The folder; made if it is not there.
        name: Of the model; by default that of the file.
        instances: Copies and their device.

    Raises:
        UserError: the source is not in order, the name is no folder's name, a type has no
            counterpart in Triton, or the repository has another model under that name.
        OSError: the repository cannot be written. Nothing is left of what was begun.
    """
    stem = name or re.sub(r"[^A-Za-z0-9_.-]", "_", source.stem)
    if not _NAME.fullmatch(stem):
        raise UserError(f"{stem!r} cannot name a model: use letters, digits, '_', '-' and '.'.")
    if is_manifest(source):
        read = manifest.read(source)
        graphs = {f"{stem}_first": read.path(FIRST), f"{stem}_next": read.path(NEXT)}
    else:
        graphs = {stem: source}
    models = {key: model_file.load(path) for key, path in graphs.items()}
    texts = {key: config(key, model.proto, instances) for key, model in models.items()}
    if repository.exists() and not repository.is_dir():
        raise UserError(f"{repository} is not a folder.")
    if not repository.absolute().parent.is_dir():
        raise UserError(f"the folder of {repository} does not exist.")
    versions = {key: _next_version(repository / key, texts[key]) for key in models}
    repository.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-triton.", dir=repository) as temporary:
        folder = Path(temporary)
        for key, model in models.items():
            _write(folder / key, versions[key], model, texts[key])
        _put_into_place(folder, repository, versions)
    return [
        Exported(key, version, repository / key / str(version)) for key, version in versions.items()
    ]


def config(name: str, proto: onnx.ModelProto, instances: Instances = Instances()) -> str:
    """The text of config.pbtxt for a graph; a dimension that is not fixed is -1.

    `max_batch_size` is 0: N is a dimension like the others, and Triton must not add one.

    Raises:
        UserError: an input or output is no tensor, or of a type that Triton does not know.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f'default_model_filename: "{MODEL_FILE}"',
        "max_batch_size: 0",
        *_tensors("input", inputs),
        *_tensors("output", proto.graph.output),
        "instance_group [",
        f"  {{ count: {instances.count} kind: KIND_{instances.kind.upper()} }}",
        "]",
    ]
    return "\n".join(lines) + "\n"


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    entries = []
    for value in values:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type not in _TYPES:
            raise UserError(f"the {field} {value.name} is of a type that Triton does not know.")
        sizes = [
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim
        ]  # a scalar is a vector of one to Triton, which it reshapes
        shape = f"dims: {sizes}" if sizes else "dims: [1] reshape: { shape: [] }"
        entries.append(
            f"  {{ name: {_quoted(value.name)} data_type: {_TYPES[kind.elem_type]} {shape} }}"
        )
    return [f"{field} [", ",\n".join(entries), "]"]


def _quoted(text: str) -> str:
    return f'"{CEscape(text, as_utf8=True)}"'


def _next_version(folder: Path, text: str) -> int:
    """The version after the newest of `folder`; raises `UserError` if another model is there."""
    if not folder.exists():
        return 1
    there = folder / CONFIG_FILE
    if not there.is_file() or there.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder} holds another model, or one with other inputs, outputs or instances: give "
            "another --name, or remove it."
        )
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)


def _write(folder: Path, version: int, model: Model, text: str) -> None:
    target = folder / str(version)
    target.mkdir(parents=True)
    external = wants_external(model, "auto")
    data = DataFile(target / f"{MODEL_FILE}.data") if external else None
    model_file.write(model, target / MODEL_FILE, data)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def _put_into_place(folder: Path, repository: Path, versions: Mapping[str, int]) -> None:
    """Rename new models, or only their new versions: a server that polls never sees half of one."""
    placed: list[Path] = []
    try:
        for name, version in versions.items():
            part = Path(name, str(version)) if (repository / name).exists() else Path(name)
            os.replace(folder / part, repository / part)
            placed.append(repository / part)
    except BaseException:
        for path in placed:
            shutil.rmtree(path, ignore_errors=True)
        raise
