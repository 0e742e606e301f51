"""What a model's worker has done, as the protocol's statistics extension counts it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Duration:
    """How often something was done, and nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count it once more."""
        self.count += 1
        self.ns += ns


@dataclass
class Statistics:
    """Of one model since the server started.

    Attributes:
        success: From the arrival of a request to its last result.
        fail: The same of requests that failed once accepted; a cancelled one counts as failed.
        queue: Waiting for the worker.
        compute: Running the graph.
        rejected: Requests that found the queue full.
        last: Milliseconds since the epoch of the last success; 0 before the first.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    rejected: int = 0
    last: int = 0

    def done(self, arrived: int, begun: int, ended: int) -> None:
        """A request was answered; times by `time.perf_counter_ns`."""
        self.success.add(ended - arrived)
        self.queue.add(begun - arrived)
        self.compute.add(ended - begun)
        self.last = time.time_ns() // 1_000_000
