"""A model that computes when the test lets it: x (1, N) in fp32 -> y, x twice as large."""

import threading

from converter.serving.model import OPEN, TensorMetadata
from tests.patience import PATIENCE


class SlowModel:
    name = "slow"
    platform = "test"
    streams = False
    description = "nothing"
    inputs = (TensorMetadata("x", "FP32", (1, OPEN)),)
    outputs = (TensorMetadata("y", "FP32", (1, OPEN)),)

    def __init__(self):
        self.let = threading.Event()
        self.begun = threading.Semaphore(0)
        self.runs = 0

    def output_shapes(self, shapes):
        return {"y": shapes["x"]}

    def run(self, feed):
        self.begun.release()
        assert self.let.wait(PATIENCE)
        self.runs += 1
        yield {"y": feed["x"] * 2}
