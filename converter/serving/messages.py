"""The protocol's messages, in a descriptor pool of their own.

A client library in the same process registers messages of the same names in the default pool; two
definitions of one name there would be an error.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
_DESCRIPTORS = "open_inference.binpb"


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    content = files("converter.serving").joinpath(_DESCRIPTORS).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()


def message(name: str) -> Any:
    """The class of a message, such as `ModelInferRequest`; raises KeyError for an unknown one."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
