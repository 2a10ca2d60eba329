"""Files to documents on other machines: what travels is their content, for the files are only here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from weakref import finalize

from fieldstone.errors import ReadError
from fieldstone.read.file import load
from fieldstone.read.find import Found
from fieldstone.read.pool import Child, Limits, ReadResult
from fieldstone.spread import Spread, batches

TOGETHER = 4 << 20
"""Bytes of the files that travel together, or one file alone: what the death of a machine can cost."""

_A_FILE = 64 << 10  # what a file weighs beside its bytes: opening many small ones takes time too


@dataclass(frozen=True, slots=True)
class Carried:
    """A file on its way: its content, when it was changed, or the `reason` why it cannot be opened here."""

    found: Found
    data: bytes = b""
    changed: float = 0.0
    reason: str | None = None


def read_elsewhere(files: Iterable[Found], limits: Limits, spread: Spread) -> Iterator[ReadResult]:
    """What became of each file, in the order of `files`: as `read_files`, on the machines of `spread`."""
    groups = batches(files, lambda file: file.size + _A_FILE, TOGETHER)
    carried = ([_carried(file) for file in group] for group in groups)
    return chain.from_iterable(spread(Reading(limits), carried))


def _carried(found: Found) -> Carried:
    try:
        data, _ = load(found.path, found.source)
        return Carried(found, data, found.path.stat().st_mtime)
    except ReadError as error:
        return Carried(found, reason=error.reason)
    except OSError as error:
        return Carried(found, reason=f"cannot be opened: {error.strerror}")


class Reading:
    """Reads what was carried to it, in a child process that a hostile file can crash instead of this one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._child: Child | None = None  # it starts where the work is done

    def __call__(self, files: Sequence[Carried]) -> list[ReadResult]:
        """What became of each."""
        if self._child is None:
            self._child = Child(self._limits)
            finalize(self, self._child.close)
        return [self._read(file, self._child) for file in files]

    @staticmethod
    def _read(file: Carried, child: Child) -> ReadResult:
        found = file.found
        if file.reason is not None:
            return ReadResult(found.source, "", (), file.reason)
        with tempfile.NamedTemporaryFile(prefix="fieldstone-") as copy:
            copy.write(file.data)
            copy.flush()
            os.utime(copy.name, (file.changed, file.changed))
            return child.read(Found(found.source, Path(copy.name), found.size, name=found.name))
