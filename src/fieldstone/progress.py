"""How long work is told about: the steps report, the caller draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Called as work goes on: `done` of `total` units of a step are finished."""

    def __call__(self, step: str, done: int, total: int, unit: str) -> None:
        """Take note."""
        ...


def silent(step: str, done: int, total: int, unit: str) -> None:
    """Tell nobody."""


def track(items: Iterable[T], total: int, step: str, unit: str, progress: Progress) -> Iterator[T]:
    """Yield the items and report each one once it has been worked on."""
    progress(step, 0, total, unit)
    for done, item in enumerate(items, start=1):
        yield item
        progress(step, done, total, unit)
