"""A process of its own for each contestant: loads once, runs on request, idle otherwise.

So its peak memory is its own, and no two pools of threads are at work at the same time.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from converter import memory
from converter.compare.running import Runner
from converter.errors import UserError
from converter.session import Array, first_line

Feed = Mapping[str, Array]

# Forking would copy the parent's threads' locks, and its memory into the child's peak.
_PROCESSES = multiprocessing.get_context("spawn")
_PATIENCE = 5.0
"""Seconds that a process told to end gets before it is killed."""


class Contestant(Protocol):
    """What is measured: it travels to another process, by pickle, and is loaded there."""

    @property
    def label(self) -> str:
        """How the tables call it."""

    def load(self) -> Runner:
        """Make it ready to run; raises `UserError` where it cannot."""


@dataclass(frozen=True)
class Sample:
    """One run: seconds by the clock, and processor seconds (user and system) of all threads."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the process: before loading, at most while loading, at most since."""

    base: int | None
    load_peak: int | None
    run_peak: int | None


@dataclass(frozen=True)
class Loaded:
    """What a contestant says when it is ready."""

    description: str
    seconds: float


@dataclass(frozen=True)
class Ran:
    """What comes back of a run."""

    sample: Sample
    memory: Memory


class RunOn(Enum):
    """What the parent asks for: a run on a feed that follows, or on the one before."""

    NEW_FEED = auto()
    SAME_FEED = auto()


class Worker(AbstractContextManager["Worker"]):
    """The parent's end. Every method raises `UserError` for what goes wrong at the other end.

    Args:
        contestant: What to run.
        limit: Seconds that loading may take, and the first run; None sets no limit.
    """

    def __init__(self, contestant: Contestant, limit: float | None = None) -> None:
        self._label = contestant.label
        self._limit = limit
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(theirs, contestant), daemon=True)
        with _no_interrupts():
            self._process.start()
        theirs.close()
        try:
            self.loaded: Loaded = self._receive(limit)
        except BaseException:
            self.close()
            raise

    def first_run(self, feed: Feed) -> tuple[Ran, dict[str, Array]]:
        """Run on `feed`, which the later runs take too; returns the outputs as well."""
        self._connection.send(RunOn.NEW_FEED)
        _send_arrays(self._connection, feed)
        ran: Ran = self._receive(self._limit)
        return ran, _receive_arrays(self._connection)

    def run(self) -> Ran:
        """Run once more."""
        self._connection.send(RunOn.SAME_FEED)
        ran: Ran = self._receive(None)
        return ran

    def close(self) -> None:
        """End the process, in the middle of a run if need be."""
        self._connection.close()
        self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _receive(self, limit: float | None) -> Any:
        try:
            if not self._connection.poll(limit):
                raise UserError(f"{self._label}: not ready within {limit:g} s.")
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(_PATIENCE)
            raise UserError(f"{self._label}: {_ending(self._process.exitcode)}.") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _ending(code: int | None) -> str:
    if code == -getattr(signal, "SIGKILL", 9):
        return "its process was killed, perhaps for want of memory"
    return f"its process ended without an answer (exit code {code})"


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A child that starts within ignores Ctrl-C: its parent hears it, and decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, contestant: Contestant) -> None:
    """The child: load, then run at every message until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    base = memory.resident_bytes()
    start = time.perf_counter()
    with suppress(EOFError, ConnectionError):
        try:
            runner = contestant.load()
        except Exception as error:
            connection.send(_sendable(contestant.label, error))
            return
        connection.send(Loaded(runner.description, time.perf_counter() - start))
        load_peak = memory.peak_bytes()
        feed: Feed = {}
        while True:
            message = connection.recv()
            if message is RunOn.NEW_FEED:
                feed = _receive_arrays(connection)
                memory.forget_peak()
            try:
                outputs, sample = _timed(runner, feed)
            except Exception as error:
                connection.send(_sendable(contestant.label, error))
                continue
            # Read before anything is sent: sending is none of the contestant's business.
            connection.send(Ran(sample, Memory(base, load_peak, memory.peak_bytes())))
            if message is RunOn.NEW_FEED:
                _send_arrays(connection, outputs)
            del outputs


def _timed(runner: Runner, feed: Feed) -> tuple[dict[str, Array], Sample]:
    wall, cpu = time.perf_counter(), time.process_time()
    outputs = runner.run(feed)
    return outputs, Sample(time.perf_counter() - wall, time.process_time() - cpu)


def _sendable(label: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, MemoryError):
        return UserError(f"{label}: out of memory.")
    return UserError(f"{label}: {type(error).__name__}: {first_line(error)}")


def _send_arrays(connection: Connection, arrays: Mapping[str, Array]) -> None:
    """Send arrays without a copy of their bytes."""
    connection.send([(name, array.dtype, array.shape) for name, array in arrays.items()])
    for array in arrays.values():
        connection.send_bytes(_bytes(np.ascontiguousarray(array)))


def _receive_arrays(connection: Connection) -> dict[str, Array]:
    """What `_send_arrays` sent, with no more than one array in memory twice."""
    arrays = {name: np.empty(shape, dtype) for name, dtype, shape in connection.recv()}
    for array in arrays.values():
        connection.recv_bytes_into(_bytes(array))
    return arrays


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
