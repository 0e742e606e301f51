"""ONNX's own Conv3d test data, exported from PyTorch long ago: opset 6, IR 3, stored outputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.execute import conv3d_left, run
from tests.judge import convert_model

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
CASES = sorted(
    path.parent
    for folder in ("pytorch-converted", "pytorch-operator")
    for path in DATA.glob(f"{folder}/*/model.onnx")
    if conv3d_left(onnx.load(path))
)


def test_every_conv3d_case_is_here():
    names = {path.name for path in CASES}
    on_disk = {path.name for path in DATA.glob("pytorch-converted/test_Conv3d*")}
    assert len(on_disk) >= 7
    assert on_disk <= names


@pytest.mark.parametrize("strategy", ["auto", "unfold", "taps"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_stored_outputs(tmp_path, path, strategy):
    model = onnx.load(path / "model.onnx")
    converted, result = convert_model(model, tmp_path, strategy)
    assert conv3d_left(converted) == []
    assert result.conv3d_left == 0
    sets = list(path.glob("test_data_set_*"))
    assert sets
    for folder in sets:
        fixed = {tensor.name for tensor in model.graph.initializer}
        fed = [value.name for value in model.graph.input if value.name not in fixed]
        feed = dict(zip(fed, _tensors(folder, "input", len(fed)), strict=True))
        wanted = _tensors(folder, "output", len(model.graph.output))
        got = run(converted, feed)
        for value, answer in zip(got.values(), wanted, strict=True):
            # Stored by another float32 kernel: the fan-in is at most 72, values about 1.
            np.testing.assert_allclose(value, answer, rtol=1e-5, atol=2e-6)
            assert value.dtype == answer.dtype


def _tensors(folder: Path, kind: str, count: int) -> list[np.ndarray]:
    tensors = []
    for index in range(count):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{index}.pb").read_bytes())
        tensors.append(numpy_helper.to_array(tensor))
    return tensors
