import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from converter.serving.errors import RequestError, Status
from converter.serving.worker import Worker
from tests.patience import PATIENCE


async def collect(worker, job, timeout=None):
    async with aclosing(worker.results(job, timeout)) as results:
        return [result async for result in results]


class Gate:
    """A job that says when it began, and yields its results when it is let."""

    def __init__(self, *results):
        self.results = results
        self.begun = threading.Event()
        self.let = threading.Event()
        self.yielded = 0

    def __call__(self):
        self.begun.set()
        assert self.let.wait(PATIENCE)
        for result in self.results:
            self.yielded += 1
            yield result


async def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


def test_results_in_order_and_jobs_one_after_the_other():
    async def main():
        worker = Worker(limit=8)
        seen = []

        def job(number):
            seen.append(("begin", number))
            yield number
            yield -number
            seen.append(("end", number))

        got = await asyncio.gather(*(collect(worker, lambda n=n: job(n)) for n in (1, 2, 3)))
        assert got == [[1, -1], [2, -2], [3, -3]]
        assert seen == [(what, n) for n in (1, 2, 3) for what in ("begin", "end")]
        counts = worker.statistics
        assert (counts.success.count, counts.queue.count, counts.fail.count) == (3, 3, 0)
        assert counts.success.ns == counts.queue.ns + counts.compute.ns
        await until(lambda: (worker.waiting, worker.running) == (0, 0))

    asyncio.run(main())


def test_a_full_queue_is_said_at_once():
    async def main():
        worker = Worker(limit=1)
        gates = [Gate("a"), Gate("b")]
        first = asyncio.create_task(collect(worker, gates[0]))
        await until(gates[0].begun.is_set)
        await until(lambda: worker.running == 1)
        second = asyncio.create_task(collect(worker, gates[1]))
        await until(lambda: worker.waiting == 1)
        with pytest.raises(RequestError) as caught:
            await collect(worker, Gate("c"))
        assert caught.value.status is Status.FULL
        assert worker.statistics.rejected == 1
        for gate in gates:
            gate.let.set()
        assert await first == ["a"]
        assert await second == ["b"]

    asyncio.run(main())


def test_out_of_time_and_work_not_begun_is_dropped():
    async def main():
        worker = Worker(limit=4)
        running, waiting = Gate("a"), Gate("b")
        first = asyncio.create_task(collect(worker, running, timeout=1))
        await until(running.begun.is_set)
        with pytest.raises(RequestError) as caught:
            await collect(worker, waiting, timeout=0.05)
        assert caught.value.status is Status.TIMEOUT
        assert "0.05 seconds" in str(caught.value)
        with pytest.raises(RequestError, match="no result within"):
            await first
        running.let.set()
        await until(lambda: (worker.waiting, worker.running) == (0, 0))
        assert not waiting.begun.is_set()
        assert worker.statistics.fail.count == 2
        assert await collect(worker, lambda: iter("c")) == ["c"]

    asyncio.run(main())


def test_a_caller_that_leaves_stops_the_job_at_its_next_result():
    async def main():
        worker = Worker(limit=4)
        gate = Gate(*range(100))
        gate.let.set()
        async with aclosing(worker.results(gate)) as results:
            async for result in results:
                assert result == 0
                break
        await until(lambda: worker.running == 0)
        assert gate.yielded <= 4
        assert worker.statistics.fail.count == 1

    asyncio.run(main())


def test_the_job_is_one_result_ahead_and_no_more():
    async def main():
        worker = Worker(limit=4)
        gate = Gate(*range(9))
        gate.let.set()
        async with aclosing(worker.results(gate)) as results:
            async for result in results:
                await asyncio.sleep(0.02)
                assert gate.yielded <= result + 3  # taken, in the queue, and waiting to be put

    asyncio.run(main())


def test_a_job_that_nobody_waits_for_and_that_goes_on():
    async def main():
        worker = Worker(limit=4)
        gate = Gate("a")
        task = asyncio.create_task(collect(worker, gate))
        await until(lambda: worker.running == 1)
        assert worker.unwanted_seconds() == 0
        before = time.monotonic()
        task.cancel()
        await until(lambda: worker.unwanted_seconds() > 0.1)
        assert worker.unwanted_seconds() <= time.monotonic() - before
        gate.let.set()
        await until(lambda: worker.running == 0)
        assert worker.unwanted_seconds() == 0

    asyncio.run(main())


def test_what_a_job_raises_reaches_its_caller_alone():
    async def main():
        worker = Worker(limit=4)

        def broken():
            yield 1
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await collect(worker, broken)
        assert await collect(worker, lambda: iter("d")) == ["d"]
        assert worker.statistics.fail.count == 1

    asyncio.run(main())


def test_closing_waits_for_what_was_taken_and_takes_no_more():
    async def main():
        worker = Worker(limit=4)
        gate = Gate("a")
        task = asyncio.create_task(collect(worker, gate))
        await until(gate.begun.is_set)
        closing = asyncio.create_task(worker.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        with pytest.raises(RequestError) as caught:
            await collect(worker, Gate("b"))
        assert caught.value.status is Status.STOPPING
        gate.let.set()
        assert await task == ["a"]
        await closing

    asyncio.run(main())


def test_giving_up_answers_all_and_begins_nothing_more():
    async def main():
        worker = Worker(limit=8)
        ahead, computing, waiting = Gate(1, 2, 3), Gate(1), Gate(1)
        ahead.let.set()
        first = worker.results(ahead)
        assert await anext(first) == 1
        await until(lambda: ahead.yielded == 3)  # 2 is there, and 3 waits for room
        others = [asyncio.create_task(collect(worker, gate)) for gate in (computing, waiting)]
        await until(lambda: worker.waiting == 2)
        assert worker.give_up() == 3
        for task in (asyncio.create_task(anext(first)), *others):
            with pytest.raises(RequestError, match="has stopped before it was done") as error:
                await task
            assert error.value.status is Status.STOPPING
        await until(lambda: (worker.waiting, worker.running) == (0, 0))
        assert not computing.begun.is_set()
        assert not waiting.begun.is_set()
        assert worker.give_up() == 0
        assert worker.statistics.fail.count == 3

        gate = Gate(1)
        running = asyncio.create_task(collect(worker, gate))
        await until(gate.begun.is_set)
        assert worker.give_up() == 1
        with pytest.raises(RequestError, match="has stopped"):
            await running
        gate.let.set()
        await until(lambda: worker.running == 0)
        assert await collect(worker, lambda: iter([7])) == [7]  # the thread is free again

    asyncio.run(main())


def test_the_loop_answers_while_a_job_computes():
    async def main():
        worker = Worker(limit=4)
        gate = Gate(1)
        task = asyncio.create_task(collect(worker, gate))
        await until(gate.begun.is_set)
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not task.done()
        gate.let.set()
        assert await task == [1]

    asyncio.run(main())
