"""Vectors in memory, searched exactly by one matrix product."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from fieldstone.progress import Progress
from fieldstone.search.stores import Found, Vectors
from fieldstone.settings import StoreSettings

Rows = NDArray[np.intp]

SCORES = 2**25
"""So many scores are held at a time: 128 MB."""


class NumpyStore:
    """A store that lives and dies with its process.

    100,000 vectors of dimension 384: the best 100 in 7 ms on two cores. float32 is the fastest that NumPy
    has: float16 takes 150 ms, and int8 multiplied block by block in float32 no less than float32 itself.
    """

    def __init__(self, dimension: int) -> None:
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix: Vectors = np.empty((0, dimension), np.float32)  # rows from len(_ids) on are spare

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Keep `vectors` (n, dimension) under `ids`; the last of a repeated id counts."""
        if vectors.shape != (len(ids), self._matrix.shape[1]):
            raise ValueError(
                f"{len(ids)} ids of dimension {self._matrix.shape[1]}, but vectors {vectors.shape}"
            )
        for id_ in ids:
            if id_ not in self._rows:
                self._rows[id_] = len(self._ids)
                self._ids.append(id_)
        if len(self._ids) > len(self._matrix):
            self._grow(max(len(self._ids), 2 * len(self._matrix)))  # doubling: growth costs O(1) a vector
        self._matrix[[self._rows[id_] for id_ in ids]] = vectors

    def _grow(self, size: int) -> None:
        grown = np.empty((size, self._matrix.shape[1]), np.float32)
        grown[: len(self._matrix)] = self._matrix
        self._matrix = grown

    @contextmanager
    def loading(self, count: int, progress: Progress) -> Iterator[None]:
        """Make room for all at once: a million vectors then take 1.5 GB and not the 3 GB of doubling."""
        del progress
        if len(self._ids) + count > len(self._matrix):
            self._grow(len(self._ids) + count)
        yield

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these ids; the last vector takes the place of each."""
        for id_ in ids:
            row = self._rows.pop(id_, None)
            if row is None:
                continue
            last = self._ids.pop()
            if last != id_:
                self._matrix[row] = self._matrix[len(self._ids)]
                self._ids[row] = last
                self._rows[last] = row

    def search(self, vectors: Vectors, k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest of each row of `vectors`, among `only` where it is given."""
        matrix = self._matrix[: len(self._ids)]
        rows = None if only is None else self._rows_of(only)
        count = len(matrix) if rows is None else len(rows)
        if k <= 0 or not count:
            return [[] for _ in vectors]
        if rows is not None and 4 * count < len(matrix):  # copying a few rows is cheaper than scoring all
            matrix = matrix[rows]
        found: list[Found] = []
        block = max(1, SCORES // len(matrix))
        for start in range(0, len(vectors), block):
            for scores in np.asarray(vectors[start : start + block], np.float32) @ matrix.T:
                found.append(self._best(scores if len(scores) == count else scores[rows], k, rows))
        return found

    def _rows_of(self, ids: Collection[str]) -> Rows:
        """Rows of the ids that are there, in order."""
        held = [row for row in map(self._rows.get, ids) if row is not None]
        mask = np.zeros(len(self._ids), np.bool_)
        mask[held] = True
        return np.flatnonzero(mask)

    def _best(self, scores: Vectors, k: int, rows: Rows | None) -> Found:
        best = np.arange(len(scores)) if k >= len(scores) else np.argpartition(scores, -k)[-k:]
        best = best[np.argsort(-scores[best], kind="stable")]
        places = best if rows is None else rows[best]
        return [(self._ids[i], float(x)) for i, x in zip(places, scores[best], strict=True)]

    def ids(self) -> set[str]:
        """Every id it holds."""
        return set(self._ids)

    def close(self) -> None:
        """Forget everything."""
        self.remove(list(self._ids))


def open_memory(url: str, dimension: int, collection: str, settings: StoreSettings) -> NumpyStore:
    """An empty store; URL, collection and settings make no difference to it."""
    del url, collection, settings
    return NumpyStore(dimension)
