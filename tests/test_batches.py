"""What waits is worked on together; no item costs another; what is given up is never run."""

import asyncio
import threading
import time

import pytest

from fieldstone.errors import Busy, NotReady
from fieldstone.serve.batches import Batcher, apart


class Worker:
    """Doubles numbers, remembers its batches, and can be held up."""

    def __init__(self, **options):
        self.batches, self.threads = [], set()
        self.going, self.busy = threading.Event(), threading.Event()
        self.going.set()
        self.batcher = Batcher("test", self.run, **{"largest": 4, "limit": 100} | options)

    def run(self, items):
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        self.busy.set()
        assert self.going.wait(10)
        if "poison" in items:
            raise RuntimeError("poison")
        return [ValueError("odd") if item == "odd" else 2 * item for item in items]

    async def hold(self):
        """Keep it busy with 0; what is put in from now on waits."""
        self.going.clear()
        self.busy.clear()
        first = self.batcher.enter(0)
        assert await asyncio.to_thread(self.busy.wait, 10)
        return first


def with_worker(test, **options):
    async def main():
        worker = Worker(**options)
        try:
            await test(worker)
        finally:
            worker.going.set()
            await worker.batcher.close()
        assert not worker.batcher._thread.is_alive()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_alone_nothing_waits_for_company():
    async def test(worker):
        assert [await worker.batcher.put(n) for n in (1, 2)] == [2, 4]
        assert worker.batches == [[1], [2]]
        assert worker.threads == {"test"}

    with_worker(test)


def test_what_waits_is_worked_on_together_in_its_order():
    async def test(worker):
        first = await worker.hold()
        rest = [worker.batcher.enter(n) for n in range(1, 8)]
        assert len(worker.batcher) == 7
        worker.going.set()
        assert await asyncio.gather(first, *rest) == [2 * n for n in range(8)]
        assert worker.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]

    with_worker(test)


def test_one_failure_does_not_cost_the_others():
    async def test(worker):
        first = await worker.hold()
        rest = [worker.batcher.enter(item) for item in (1, "odd", "poison", 3)]
        worker.going.set()
        outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
        assert outcomes[:2] + outcomes[4:] == [0, 2, 6]
        assert [str(outcome) for outcome in outcomes[2:4]] == ["odd", "poison"]
        assert await worker.batcher.put(5) == 10

    with_worker(test)


def test_too_few_outcomes_are_an_error_and_no_hang():
    async def main():
        batcher = Batcher("few", lambda items: [], largest=4, limit=4)
        with pytest.raises(RuntimeError, match="1 items, but 0 outcomes"):
            await batcher.put(1)
        await batcher.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_full_queue_says_when_to_come_back():
    async def test(worker):
        worker.batcher._pace = 2.5
        first = await worker.hold()
        waiting = [worker.batcher.enter(n) for n in (1, 2)]
        with pytest.raises(Busy) as full:
            worker.batcher.enter(3)
        assert (full.value.status, full.value.seconds) == (429, 5)
        waiting[0].cancel()
        await asyncio.sleep(0)
        again = worker.batcher.enter(4)  # the place of the one that left
        worker.going.set()
        assert await asyncio.gather(first, waiting[1], again) == [0, 4, 8]

    with_worker(test, limit=2)


def test_what_would_wait_longer_than_it_may_is_turned_down():
    async def test(worker):
        worker.batcher._pace = 3.0
        await worker.hold()
        worker.batcher.enter(1)
        worker.batcher.enter(2)
        with pytest.raises(Busy, match="ask again in 6 s"):
            worker.batcher.enter(3)

    with_worker(test, patience=5.0)


def test_what_is_given_up_is_never_run():
    async def test(worker):
        first = await worker.hold()
        asking = asyncio.create_task(worker.batcher.put(1))
        left = worker.batcher.enter(2)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert len(worker.batcher) == 1
        worker.going.set()
        assert await asyncio.gather(first, left) == [0, 4]
        assert worker.batches == [[0], [2]]

    with_worker(test)


def test_a_stop_turns_down_what_waits_and_lets_the_batch_end():
    async def test(worker):
        first = await worker.hold()
        waiting = worker.batcher.enter(1)
        worker.batcher.stop()
        with pytest.raises(NotReady):
            await waiting
        with pytest.raises(NotReady):
            worker.batcher.enter(2)
        assert not first.done()
        worker.going.set()
        assert await first == 0
        await worker.batcher.close()
        with pytest.raises(NotReady):
            await worker.batcher.between(lambda: 1)
        assert worker.batches == [[0]]

    with_worker(test)


def test_work_between_batches_goes_before_what_waits():
    async def test(worker):
        first = await worker.hold()
        waiting = worker.batcher.enter(1)
        seen = asyncio.create_task(worker.batcher.between(lambda: list(worker.batches)))
        await asyncio.sleep(0)
        worker.going.set()
        assert await seen == [[0]]
        assert await asyncio.gather(first, waiting) == [0, 2]
        with pytest.raises(ZeroDivisionError):
            await worker.batcher.between(lambda: 1 / 0)

    with_worker(test)


def test_many_askers_get_each_their_own():
    async def test(worker):
        async def ask(n):
            await asyncio.sleep(0.0005 * (n % 7))
            return await worker.batcher.put(n)

        assert await asyncio.gather(*map(ask, range(200))) == [2 * n for n in range(200)]
        assert max(map(len, worker.batches)) > 1

    with_worker(test, limit=200, largest=8)


def test_work_apart_holds_nothing_up():
    async def main():
        released = threading.Event()
        waiting = asyncio.create_task(apart(lambda: released.wait(10)))
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            await apart(lambda: 1 / 0)
        assert time.monotonic() - began < 5
        released.set()
        assert await waiting

    asyncio.run(asyncio.wait_for(main(), 20))
