"""One server for all tests that only ask it: a graph with open sizes, and a stream."""

from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from converter.serving.model import open_model
from tests import small_models, stream_graphs
from tests.serving.running import running
from tests.small_models import save, value


def every_type() -> onnx.ModelProto:
    """An Identity for each element type that the protocol has: `x.NAME` -> `y.NAME`."""
    types = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
    types += ["FLOAT16", "FLOAT", "DOUBLE", "BFLOAT16"]
    values = {name: getattr(TensorProto, name) for name in types}
    return small_models.model(
        [helper.make_node("Identity", [f"x.{name}"], [f"y.{name}"]) for name in types],
        [value(f"x.{name}", (2, 3), elem_type) for name, elem_type in values.items()],
        [value(f"y.{name}", (2, 3), elem_type) for name, elem_type in values.items()],
    )


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Models `vae` (x: Nx4xTx6x8 -> y), `types`, and the stream `wan`; `http` and `grpc` ports."""
    folder = tmp_path_factory.mktemp("served")
    graph = save(small_models.conv3d(dims=("N", 4, "T", 6, 8)), folder / "vae.onnx")
    stream = stream_graphs.write(folder / "wan.json", chunk=2)
    types = save(every_type(), folder / "types.onnx")
    models = [open_model(path, provider="cpu") for path in (graph, types, stream)]
    with running(models) as serving:
        yield SimpleNamespace(
            graph=graph,
            types=types,
            http=f"127.0.0.1:{serving.http_port}",
            grpc=f"127.0.0.1:{serving.grpc_port}",
            server=serving.server,
        )
