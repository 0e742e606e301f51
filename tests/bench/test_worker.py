import os
import signal
import time

import numpy as np
import pytest

from converter import memory
from converter.bench.worker import Worker
from converter.errors import UserError
from converter.session import RunError
from tests.bench.contestants import FILLED, LONG, Odd, Scale, odd_arrays

FEED = {"x": np.array([1, 2], np.float32)}


def test_loads_once_and_keeps_the_feed_and_survives_errors_and_ctrl_c(tmp_path):
    log = tmp_path / "log"
    with Worker(Scale("double", log, factor=2, smallest=2, fails_at_run=3)) as worker:
        assert worker.loaded.description == "a multiplication"
        assert worker.loaded.seconds > 0
        with pytest.raises(RunError, match="1 is too small"):
            worker.first_run({"x": np.ones(1, np.float32)})
        ran, outputs = worker.first_run(FEED)
        assert outputs.keys() == {"y"}
        assert outputs["y"].tolist() == [2, 4]
        assert ran.sample.wall > 0
        os.kill(worker._process.pid, signal.SIGINT)
        worker.run()
        assert log.read_text() == "double\ndouble\n"
        with pytest.raises(UserError, match=r"double: ZeroDivisionError: nothing to divide by"):
            worker.run()
    assert not worker._process.is_alive()


def test_every_kind_of_array_comes_back():
    with Worker(Odd("types")) as worker:
        _, outputs = worker.first_run({})
    expected = odd_arrays()
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert (outputs[name].dtype, outputs[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(outputs[name], array)


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="needs Linux's /proc")
def test_the_peak_is_the_contestants_own():
    ours = np.ones(3 * FILLED, np.uint8)
    with Worker(Odd("fill")) as worker:
        ran, _ = worker.first_run({})
    del ours
    found = ran.memory
    # A block of that size while loading, half of it while running.
    assert 0.95 * FILLED < found.load_peak - found.base < 1.3 * FILLED
    assert 0.45 * FILLED < found.run_peak - found.base < 0.8 * FILLED


@pytest.mark.parametrize(
    ("deed", "limit", "words"),
    [
        ("die", None, r"odd: its process ended without an answer \(exit code 3\)"),
        ("starve", None, "odd: out of memory"),
        ("sleep", 0.1, r"odd: not ready within 0\.1 s"),
    ],
)
def test_what_goes_wrong_while_loading_is_a_sentence(deed, limit, words):
    start = time.monotonic()
    with pytest.raises(UserError, match=words):
        Worker(Odd(deed), limit)
    assert time.monotonic() - start < LONG


def test_a_killed_process_is_a_sentence(tmp_path):
    with Worker(Scale("victim", tmp_path / "log")) as worker:
        worker.first_run(FEED)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="victim: its process was killed"):
            worker.run()
