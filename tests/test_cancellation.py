import threading
import time

import numpy as np
import onnx
import pytest
from onnx import helper

from converter.cancellation import Cancellation, CancelledRunError
from converter.providers import make_session
from converter.session import Session
from tests import small_models
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
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(raised[0], CancelledRunError)
    assert capfd.readouterr().err == ""  # onnxruntime's own complaint


def many_nodes(count=100):
    """x (N, 256, 256) -> y: x times a matrix, again and again."""
    nodes = [
        helper.make_node("MatMul", [f"x{n}" if n else "x", "w"], [f"x{n + 1}"])
        for n in range(count)
    ]
    nodes.append(helper.make_node("Identity", [f"x{count}"], ["y"]))
    weights = onnx.numpy_helper.from_array(small_models.draw((256, 256), 1) / 32, "w")
    dims = ("N", 256, 256)
    return small_models.model(nodes, [value("x", dims)], [value("y", dims)], [weights])


def test_the_session_computes_the_same_afterwards(tmp_path):
    session = make_session(save(many_nodes(), tmp_path / "many.onnx"), "cpu")
    x = small_models.draw((1, 256, 256), 2)
    began = time.perf_counter()
    expected = Session.array(session.run_values({"x": Session.value(x)})["y"]).copy()
    whole = time.perf_counter() - began
    ended = 0
    for part in (0.1, 0.3, 0.5):
        cancellation = Cancellation()
        thread, raised = run(session, cancellation, {"x": x})
        time.sleep(part * whole)
        cancellation.cancel()
        thread.join(20)
        ended += len(raised)
        assert all(isinstance(error, CancelledRunError) for error in raised)
        again = Session.array(session.run_values({"x": Session.value(x)})["y"])
        assert np.array_equal(again, expected)
    assert ended > 0


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
