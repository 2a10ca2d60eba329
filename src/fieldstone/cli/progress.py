"""Progress on standard error: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from fieldstone.cli.output import err, show
from fieldstone.progress import Progress, silent

EVERY = 5.0
"""Seconds between the lines that stand for a bar."""


@contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """What draws the progress of the work in the block."""
    if quiet:
        yield silent
    elif err.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        with Bars(*columns, console=err) as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


@contextmanager
def waiting(what: str, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal that something of unknown length is under way."""
    if quiet or not err.is_terminal:
        yield
    else:
        with err.status(what, spinner="line"):
            yield


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="dim")


class _Bars:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int, unit: str) -> None:
        if total == 0:
            return
        if step not in self._tasks or done == 0:
            self._tasks[step] = self._bars.add_task(step, total=total, unit=unit)
        self._bars.update(self._tasks[step], completed=done)


class _Lines:
    def __init__(self) -> None:
        self._step = ""
        self._began = self._last = 0.0

    def __call__(self, step: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if step != self._step or done == 0:
            self._step, self._began, self._last = step, now, now
        seconds = now - self._began
        if total and done == total:
            show(f"{step}: {total:,} {unit} in {seconds:.1f} s", to=err)
        elif done and now - self._last >= EVERY:
            self._last = now
            left = seconds / done * (total - done)
            rate = done / seconds
            show(f"{step}: {done:,} of {total:,} {unit}, {rate:,.1f} a second, {left:.0f} s left", to=err)
