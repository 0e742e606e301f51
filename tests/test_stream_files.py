import json
import os

import numpy as np
import onnx
import pytest

from converter import stream_files
from converter.errors import UserError
from converter.manifest import read
from converter.runtime import Decoder
from tests import stream_graphs
from tests.small_models import files

NEW = ["a.data", "a.first.onnx", "a.json", "a.next.onnx"]


def decodes(path, chunk):
    z = stream_graphs.latent(chunk + 1)
    video = Decoder(path, "cpu").decode(z)
    np.testing.assert_allclose(video, stream_graphs.decode(z), rtol=0, atol=1e-5)
    return Decoder(path, "cpu").chunk == chunk


def test_four_files_and_the_weights_once(tmp_path):
    path = stream_graphs.write(tmp_path / "a.json")
    assert sorted(os.listdir(tmp_path)) == NEW
    weights = sum(weight.nbytes for weight in stream_graphs.weights().values())
    assert weights <= (tmp_path / "a.data").stat().st_size < weights + 4096
    for role in ("first", "next"):
        proto = onnx.load(read(path).path(role))
        values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        for name, weight in stream_graphs.weights().items():
            np.testing.assert_array_equal(values[f"{name}.weight"], weight)


def test_what_is_not_committed_leaves_no_trace(tmp_path):
    with stream_files.pending_stream(tmp_path / "a.json"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_manifest_is_replaced_and_its_own_files_go(tmp_path):
    path = stream_graphs.write(tmp_path / "a.json", 1)
    stream_graphs.write(path, 2)
    assert sorted(os.listdir(tmp_path)) == ["a.1.data", "a.1.first.onnx", "a.1.next.onnx", "a.json"]
    assert decodes(path, 2)
    stream_graphs.write(path, 3)
    assert sorted(os.listdir(tmp_path)) == NEW
    assert decodes(path, 3)


def test_files_of_other_names_and_changed_ones_stay(tmp_path):
    path = stream_graphs.write(tmp_path / "a.json", 1)
    (tmp_path / "a.first.onnx").rename(tmp_path / "mine.onnx")
    content = json.loads(path.read_text())
    content["files"]["first"]["name"] = "mine.onnx"
    path.write_text(json.dumps(content))
    stream_graphs.write(path, 2)
    assert "mine.onnx" in os.listdir(tmp_path)
    assert "a.data" not in os.listdir(tmp_path)
    (tmp_path / "a.1.data").write_bytes(b"changed")
    stream_graphs.write(path, 3)
    assert (tmp_path / "a.1.data").read_bytes() == b"changed"
    assert decodes(path, 3)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("moved", [False, True], ids=["before", "behind"])
def test_an_error_while_renaming_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, error, call, moved
):
    path = stream_graphs.write(tmp_path / "a.json", 1)
    before = files(tmp_path)
    rename, calls = os.replace, []

    def interrupted(src, dst):
        calls.append(dst)
        if len(calls) == call + 1 and not moved:
            raise error
        rename(src, dst)
        if len(calls) == call + 1:
            raise error

    monkeypatch.setattr(stream_files.os, "replace", interrupted)
    with pytest.raises(error):
        stream_graphs.write(path, 2)
    if call == 3 and moved:
        assert decodes(path, 2)
    else:
        assert files(tmp_path) == before


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"its name must end in \.json"):
        stream_files.refuse_to_replace(tmp_path / "a.onnx", overwrite=True)
    path = stream_graphs.write(tmp_path / "a.json")
    stream_files.refuse_to_replace(path, overwrite=True)
    with pytest.raises(UserError, match="exists; give --overwrite"):
        stream_files.refuse_to_replace(path, overwrite=False)
