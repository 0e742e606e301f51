"""Prometheus metrics of a server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from converter.serving.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 600)


class Metrics:
    """Counters of requests, and gauges that read the workers when they are asked.

    Args:
        workers: By model.
        replica: Of several servers behind one address, which this is: a label of every series.
            Empty for one alone.
    """

    def __init__(self, workers: Mapping[str, Worker[object]], replica: str = "") -> None:
        self._registry = CollectorRegistry()
        self._replica = replica
        self._requests = Counter(
            "convert_vae_requests_total",
            "Requests by how they ended: HTTP codes, for gRPC too. Those that were refused before "
            "they came to a model have none.",
            ["model", "protocol", "code"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "convert_vae_decode_seconds",
            "Time in the queue and in the graph, of requests that were answered.",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._frames = Counter(
            "convert_vae_frames_total",
            "Frames of video that were made.",
            ["model"],
            registry=self._registry,
        )
        depth = Gauge(
            "convert_vae_queue_depth",
            "Requests that wait for a model.",
            ["model"],
            registry=self._registry,
        )
        for name, worker in workers.items():
            depth.labels(name).set_function(partial(getattr, worker, "waiting"))

    def count(self, model: str, protocol: str, code: int) -> None:
        """A request ended."""
        self._requests.labels(model, protocol, str(code)).inc()

    def decoded(self, model: str, seconds: float, frames: int) -> None:
        """A request was answered."""
        self._seconds.labels(model).observe(seconds)
        self._frames.labels(model).inc(frames)

    def text(self) -> bytes:
        """The exposition format."""
        if not self._replica:
            return generate_latest(self._registry)
        labelled = CollectorRegistry()
        labelled.register(_Labelled(self._registry, {"replica": self._replica}))
        return generate_latest(labelled)


class _Labelled(Collector):
    """The same series, each with more labels."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._more = labels

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, **self._more}) for sample in metric.samples
            ]
            yield metric
