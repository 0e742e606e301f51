import threading
import time
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.cancellation import Cancellation, CancelledRunError
from converter.providers import make_session
from converter.session import Session
from tests import small_models
from tests.patience import PATIENCE
from tests.serving.test_lifecycle import endless
from tests.small_models import save, value


def run(session, cancellation, feed):
    """What a run in another thread raises, or None."""
    values = {name: Session.value(array) for name, array in feed.items()}
    raised = []

    def work():
        with cancellation.applied():
            try:
                session.run_values(values)
            except Exception as error:
                raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, raised


def test_a_run_that_would_never_end_is_ended(tmp_path, capfd):
    session = make_session(endless(tmp_path / "endless.onnx"), "cpu")
    cancellation = Cancellation()
    thread, raised = run(session, cancellation, {"x": np.zeros((1, 2), np.float32)})
    time.sleep(0.2)
    assert thread.is_alive()
    cancellation.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert isinstance(raised[0], CancelledRunError)
    assert capfd.readouterr().err == ""  # onnxruntime's own complaint


def many_nodes(count=10):
    """x (1, 256, 256), rounds -> y: x times a matrix `count` times, for so many rounds."""
    names = ["before", *(f"x{n}" for n in range(1, count)), "after"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    nodes.append(helper.make_node("Identity", ["go"], ["go.on"]))
    dims = (1, 256, 256)
    flags = [value(name, (), TensorProto.BOOL) for name in ("go", "go.on")]
    body = helper.make_graph(
        nodes,
        "body",
        [value("number", (), TensorProto.INT64), flags[0], value("before", dims)],
        [flags[1], value("after", dims)],
    )
    loop = helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)
    inputs = [value("rounds", (), TensorProto.INT64), value("x", dims)]
    weights = onnx.numpy_helper.from_array(small_models.draw((256, 256), 1) / 16, "w")
    return small_models.model([loop], inputs, [value("y", dims)], [weights])


def test_the_session_computes_the_same_afterwards(tmp_path):
    session = make_session(save(many_nodes(), tmp_path / "many.onnx"), "cpu")
    x = small_models.draw((1, 256, 256), 2)
    few, endless = ({"x": x, "rounds": np.array(rounds)} for rounds in (10, 2**60))

    def compute():
        values = session.run_values({name: Session.value(array) for name, array in few.items()})
        return Session.array(values["y"]).copy()

    expected = compute()
    assert expected.std() > 1e-6
    for seconds in (0.001, 0.01, 0.1):
        cancellation = Cancellation()
        thread, raised = run(session, cancellation, endless)
        time.sleep(seconds)
        cancellation.cancel()
        thread.join(PATIENCE)
        assert [type(error) for error in raised] == [CancelledRunError]
        assert np.array_equal(compute(), expected)


def test_nothing_begins_once_it_is_cancelled(tmp_path):
    session = make_session(save(small_models.conv3d(), tmp_path / "vae.onnx"), "cpu")
    x = Session.value(small_models.draw(small_models.VIDEO))
    cancellation = Cancellation()
    with cancellation.applied():
        session.run_values({"x": x})
        cancellation.cancel()
        with pytest.raises(CancelledRunError):
            session.run_values({"x": x})
    session.run_values({"x": x})  # outside of it
