"""One thread that computes, and a bounded queue before it.

The event loop never computes: it hands a job over and takes the results as they come, so that
health and metrics answer at once whatever the thread is at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from converter.cancellation import Cancellation
from converter.serving.errors import RequestError, Status
from converter.serving.statistics import Statistics

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """After the last result: nothing, or what went wrong."""

    error: BaseException | None = None


class Worker(Generic[T]):
    """Runs jobs one after the other; all methods belong to the event loop's thread.

    Args:
        limit: Jobs that may wait while one runs.
    """

    def __init__(self, limit: int) -> None:
        self.statistics = Statistics()
        self.waiting = 0
        self.running = 0
        self._limit = limit
        self._closed = False
        self._runs: set[_Run[T]] = set()
        self._computing: _Run[T] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")

    async def results(
        self, job: Callable[[], Iterator[T]], timeout: float | None = None
    ) -> AsyncIterator[T]:
        """What the job's iterator yields, each as soon as it is there.

        The iterator is at most one result ahead of the caller. A caller that closes this generator
        early ends the job: at its next result, or sooner where it runs a session, which is ended
        between two nodes. A job that has not begun by then never runs.

        Args:
            job: Makes the iterator; both run in the worker's thread.
            timeout: Seconds to wait for each result, the time in the queue included.

        Raises:
            RequestError: the queue is full, the server is stopping, or the time is up.
        """
        if self._closed:
            raise RequestError(Status.STOPPING, "the server is stopping")
        if self.waiting + self.running > self._limit:
            self.statistics.rejected += 1
            raise RequestError(
                Status.FULL,
                f"one request runs and {self._limit} wait, which is the limit",
                self._retry_after(),
            )
        run = _Run(job, asyncio.get_running_loop(), self)
        self._runs.add(run)
        self.waiting += 1
        future = self._pool.submit(run.work)
        done = False
        try:
            while True:
                try:
                    result = await asyncio.wait_for(run.results.get(), timeout)
                except asyncio.TimeoutError as error:
                    raise RequestError(
                        Status.TIMEOUT, f"no result within {timeout:g} seconds"
                    ) from error
                if isinstance(result, _End):
                    if result.error is not None:
                        raise result.error
                    done = True
                    return
                yield result
        finally:
            if future.cancel():
                self.waiting -= 1
            run.abandon()
            self._runs.discard(run)
            now = time.perf_counter_ns()
            if done:
                self.statistics.done(run.arrived, run.begun, now)
            else:
                self.statistics.fail.add(now - run.arrived)

    async def close(self) -> None:
        """Take no more jobs, and wait for those that were taken."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)

    def give_up(self) -> int:
        """Tell all who still wait for results that they get none; returns how many they are.

        What has not begun never does; what runs is ended, though not before its next node.
        """
        for run in self._runs:
            run.fail(RequestError(Status.STOPPING, "the server has stopped before it was done"))
        return len(self._runs)

    def unwanted_seconds(self) -> float:
        """For how long a job has gone on that nobody waits for; 0 where none does."""
        run = self._computing
        return run.unwanted_seconds() if run is not None else 0.0

    def _retry_after(self) -> int:
        """Seconds after which there is probably room in the queue."""
        compute = self.statistics.compute
        return max(1, round(compute.ns / compute.count / 1e9)) if compute.count else 1


class _Run(Generic[T]):
    """One job on its way through the thread."""

    def __init__(
        self, job: Callable[[], Iterator[T]], loop: asyncio.AbstractEventLoop, worker: Worker[T]
    ) -> None:
        self.results: asyncio.Queue[T | _End] = asyncio.Queue(1)
        self.arrived = self.begun = time.perf_counter_ns()
        self._job = job
        self._loop = loop
        self._worker = worker
        self._cancellation = Cancellation()
        self._unwanted_since = 0.0

    def work(self) -> None:
        """In the thread: compute, and wait for room before the next result."""
        self.begun = time.perf_counter_ns()
        self._loop.call_soon_threadsafe(self._count, -1, 1, self)
        try:
            with self._cancellation.applied():
                for result in self._job():
                    self._put(result)
                    if self._cancellation.cancelled:
                        return
            self._put(_End())
        except BaseException as error:
            self._put(_End(error))
        finally:
            self._loop.call_soon_threadsafe(self._count, 0, -1, None)

    def abandon(self) -> None:
        """In the loop: nobody waits for results any more."""
        self._unwanted_since = self._unwanted_since or time.monotonic()
        self._cancellation.cancel()
        while not self.results.empty():
            self.results.get_nowait()

    def fail(self, error: RequestError) -> None:
        """In the loop: raise an error in place of the results that are still to come."""
        self.abandon()
        self.results.put_nowait(_End(error))

    def unwanted_seconds(self) -> float:
        """In the loop: since when nobody waits, if so."""
        return time.monotonic() - self._unwanted_since if self._unwanted_since else 0.0

    def _put(self, result: T | _End) -> None:
        if not self._cancellation.cancelled:
            asyncio.run_coroutine_threadsafe(self.results.put(result), self._loop).result()

    def _count(self, waiting: int, running: int, computing: _Run[T] | None) -> None:
        self._worker.waiting += waiting
        self._worker.running += running
        self._worker._computing = computing
