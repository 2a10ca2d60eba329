"""Where the same work on many things is done: here, one after the other, or on many machines at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Spread(Protocol):
    """Does the same work on every item and gives what came of each, in their order, as `map` does.

    Work, items and what comes of them may travel to other machines: they are what pickle can send. A model
    travels by its name.
    """

    def __call__(self, work: Callable[[Item], Made], items: Iterable[Item], /) -> Iterator[Made]:
        """What came of each item; some items may be taken before the first result is given."""
        ...


def here(work: Callable[[Item], Made], items: Iterable[Item], /) -> Iterator[Made]:
    """On this machine, one after the other."""
    return map(work, items)


def batches(items: Iterable[Item], weigh: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """The items in their order, so many together that they weigh at most `most`, or one alone."""
    batch: list[Item] = []
    weight = 0
    for item in items:
        its = weigh(item)
        if batch and weight + its > most:
            yield batch
            batch, weight = [], 0
        batch.append(item)
        weight += its
    if batch:
        yield batch
