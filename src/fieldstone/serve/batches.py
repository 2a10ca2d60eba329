"""Many ask, one works: what waits is worked on together, in the order in which it came.

A model may be used from one thread at a time, and works best on several things at once. So a batcher has a
thread of its own, which takes what is waiting whenever it is free: alone, nothing waits for company, and the
more there is to do, the larger the batches become.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

from fieldstone.errors import Busy, NotReady

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
T = TypeVar("T")

STOPPED = "the server is stopping; ask again once it runs"

_WEIGHT = 0.3
"""How much the newest batch counts for the pace."""


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Item]):
    item: Item
    future: asyncio.Future[Any]


class Batcher(Generic[Item, Outcome]):
    """Items in from asyncio, outcomes out; in between a thread that calls `run` with a batch of them.

    `run` gives an outcome an item, an exception where that one failed. If it raises, each item of the batch
    is tried by itself, so that one cannot cost the others. `largest` bounds a batch, `limit` what may wait,
    and `patience` (seconds) how long something may have to wait at the pace of late.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Item]], Sequence[Outcome | Exception]],
        *,
        largest: int,
        limit: int,
        patience: float = math.inf,
    ) -> None:
        self._run, self._largest, self._limit, self._patience = run, largest, limit, patience
        self._waiting: deque[_Waiting[Item]] = deque()
        self._first: deque[_Waiting[Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._stopped = self._ended = False
        self._pace = 0.0  # seconds an item
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    def enter(self, item: Item) -> asyncio.Future[Outcome]:
        """Put an item in; its outcome will be the future's. Cancelled while it waits, it is never run.

        Raises Busy when too much waits, NotReady after `stop`.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = _Waiting(item, future)
        with self._changed:
            if self._stopped:
                raise NotReady(STOPPED)
            waiting = len(self._waiting)
            seconds = waiting * self._pace
            if waiting >= self._limit or (waiting and seconds > self._patience):
                raise Busy(waiting, max(1, math.ceil(seconds)))
            self._waiting.append(entry)
            self._changed.notify()
        future.add_done_callback(lambda _: self._leave(entry))
        return future

    async def put(self, item: Item) -> Outcome:
        """The outcome of an item; as `enter`."""
        return await self.enter(item)

    async def between(self, work: Callable[[], T]) -> T:
        """Do this in the thread, after the batch under way and before all that waits."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._ended:
                raise NotReady(STOPPED)
            self._first.append(_Waiting(work, future))
            self._changed.notify()
        return await future

    def stop(self) -> None:
        """Take nothing more in, and turn down what waits; the batch under way goes on."""
        with self._changed:
            self._stopped = True
            turned_down = [entry.future for entry in self._waiting]
            self._waiting.clear()
            self._changed.notify()
        _settle([(future, NotReady(STOPPED)) for future in turned_down])

    async def close(self, seconds: float = 10.0) -> bool:
        """Stop, and wait so long at most for the batch under way; says whether it has ended."""
        self.stop()
        await asyncio.to_thread(self._thread.join, seconds)
        return not self._thread.is_alive()

    def _leave(self, entry: _Waiting[Item]) -> None:
        if entry.future.cancelled():
            with self._changed, suppress(ValueError):  # it has been taken already
                self._waiting.remove(entry)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._first or self._waiting or self._stopped)
                first = [self._first.popleft() for _ in range(len(self._first))]
                taken = [] if first else self._take()
                self._ended = self._stopped and not first and not taken
            if self._ended:
                return
            if first:
                _settle([(entry.future, _outcome(entry.item)) for entry in first])
            if taken:
                began = perf_counter()
                outcomes = self._outcomes([entry.item for entry in taken])
                pace = (perf_counter() - began) / len(taken)
                self._pace = pace if not self._pace else (1 - _WEIGHT) * self._pace + _WEIGHT * pace
                _settle(list(zip((entry.future for entry in taken), outcomes, strict=True)))

    def _take(self) -> list[_Waiting[Item]]:
        """The next batch; what was given up a moment ago is left out."""
        taken: list[_Waiting[Item]] = []
        while self._waiting and len(taken) < self._largest:
            entry = self._waiting.popleft()
            if not entry.future.done():
                taken.append(entry)
        return taken

    def _outcomes(self, items: list[Item]) -> list[Outcome | Exception]:
        try:
            outcomes = list(self._run(items))
            if len(outcomes) != len(items):
                raise RuntimeError(f"{len(items)} items, but {len(outcomes)} outcomes")
            return outcomes
        except Exception as error:  # of one item, perhaps: the others shall not suffer
            if len(items) == 1:
                return [error]
            return [outcome for item in items for outcome in self._outcomes([item])]


async def apart(work: Callable[[], T]) -> T:
    """Do this in a thread of its own, which no one waits for when the process ends."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    thread = threading.Thread(target=lambda: _settle([(future, _outcome(work))]), daemon=True)
    thread.start()
    return await future


def _outcome(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except Exception as error:
        return error


def _settle(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Hand the outcomes over to those who wait, if they still do; from any thread."""

    def settle() -> None:
        for future, outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    if outcomes:
        with suppress(RuntimeError):  # the loop is closed: no one waits any more
            outcomes[0][0].get_loop().call_soon_threadsafe(settle)
