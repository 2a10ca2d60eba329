"""Vectors in a FAISS file: searched exactly, and above a size in lists of near ones."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from fieldstone.errors import StoreError
from fieldstone.progress import Progress
from fieldstone.search.stores import (
    Found,
    Vectors,
    as_id,
    as_number,
    folder_or_server,
    last_of_each,
    other_dimension,
)
from fieldstone.settings import StoreSettings

Labels = NDArray[np.int64]

NOTHING = np.finfo(np.float32).min
"""The score of the places that FAISS could not fill."""

SEARCHED = 1 / 32
"""The share of the lists that a search reads; how much of the exact result that finds: docs/results.md."""

FEW = 0.2
"""Among so small a share of the vectors a search reads all lists, and is exact."""

SAMPLE = 40
"""Vectors a list from which its middle is learnt: FAISS asks for 39."""

ROUNDS = 10
"""Of k-means."""

BLOCK = 50_000
"""Vectors that are moved from one index to another at a time."""

SAVING = 0.05
"""The share of the time that may go into writing the file while many vectors are loaded."""


class FaissStore:
    """Inner products with every vector (IndexFlatIP), in one file; above `exact_up_to` of them IndexIVFFlat.

    Every `add` and `remove` writes the whole file anew, so add many at once, or within `loading`. A kill
    leaves the file as it was before or after the call.
    """

    def __init__(self, path: Path, index: Any, exact_up_to: int) -> None:
        self._path = path
        self._index = index
        self._exact_up_to = exact_up_to
        self._loading = False
        self._saved = self._pause = 0.0

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Keep `vectors` (n, dimension) under `ids`."""
        if len(ids):
            kept, rows = last_of_each(ids, vectors)
            self._index.remove_ids(faiss.IDSelectorBatch(_labels(kept)))
            self._index.add_with_ids(rows, _labels(kept))
            self._save()

    @contextmanager
    def loading(self, count: int, progress: Progress) -> Iterator[None]:
        """The file is written now and then, and at the end; lists are learnt at the end."""
        if not count:
            yield
            return
        self._loading, self._saved = True, time.monotonic()
        try:
            yield
        except BaseException:  # stopped: what is there is kept as it is
            self._pause = 0.0
            self._save()
            raise
        else:
            self._loading = False
            self._save(progress)
        finally:
            self._loading = False

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these ids."""
        if len(ids) and self._index.remove_ids(faiss.IDSelectorBatch(_labels(ids))):
            self._save()

    def search(self, vectors: Vectors, k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest of each row of `vectors`, among `only` where it is given."""
        total = self._index.ntotal
        k = min(k, total if only is None else len(only))
        if k <= 0 or not total or not len(vectors):
            return [[] for _ in vectors]
        parameters: Any = faiss.SearchParameters()
        if lists := _lists(self._index):
            few = only is not None and len(only) < FEW * total
            read = lists if few else max(1, round(lists * SEARCHED))
            parameters = faiss.SearchParametersIVF()
            parameters.nprobe = read
        if only is not None:
            chosen = faiss.IDSelectorBatch(_labels(only))  # held by this name alone while FAISS reads it
            parameters.sel = chosen
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        scores, labels = self._index.search(rows, k, params=parameters)
        return [
            [(as_id(int(n)), float(score)) for n, score in zip(found, row, strict=True) if score > NOTHING]
            for found, row in zip(labels.view(np.uint64), scores, strict=True)
        ]

    def ids(self) -> set[str]:
        """Every id it holds."""
        return {as_id(int(n)) for labels in _held_labels(self._index) for n in labels.view(np.uint64)}

    def close(self) -> None:
        """Nothing to let go of: the file is up to date."""

    def _save(self, progress: Progress | None = None) -> None:
        if self._loading:
            if time.monotonic() - self._saved < self._pause:
                return
        else:
            self._index = _of_its_size(self._index, self._exact_up_to, progress)
        began = time.monotonic()
        partial = self._path.with_name(f"{self._path.name}.partial")
        try:
            faiss.write_index(self._index, str(partial))
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self._path)
        except (RuntimeError, OSError) as error:
            raise StoreError(
                f"{self._path} cannot be written ({error}); make room or name another place"
            ) from None
        self._saved = time.monotonic()
        self._pause = (self._saved - began) / SAVING


def open_faiss(url: str, dimension: int, collection: str, settings: StoreSettings) -> FaissStore:
    """The FAISS file of a collection: `faiss:///x/name.faiss` lies in `/x/name-COLLECTION.faiss`."""
    place = folder_or_server(url)
    if not isinstance(place, Path):
        raise StoreError(
            f"FAISS works in this process, without a server as in {url!r}; write faiss:///folder/name"
        )
    path = place.with_name(f"{place.stem}-{collection}{place.suffix}")
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent} cannot be made ({error.strerror}); name another place") from None
        return FaissStore(path, _flat(dimension), settings.approximate_above)
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{path} is no FAISS file ({reason}); delete it, and it comes back") from None
    if not isinstance(index, faiss.IndexIDMap2 | faiss.IndexIVFFlat):
        raise StoreError(f"{path} is a FAISS file, but none of ours; name another place")
    if index.d != dimension:
        raise other_dimension(url, collection, index.d, dimension)
    return FaissStore(path, index, settings.approximate_above)


def _flat(dimension: int) -> Any:
    return faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))


def _lists(index: Any) -> int:
    """Into how many lists it is divided; 0: none, it is searched whole."""
    return int(index.nlist) if isinstance(index, faiss.IndexIVFFlat) else 0


def _wanted_lists(vectors: int) -> int:
    """Four times the root, as FAISS's guidelines have it; of few vectors fewer, so that none is empty."""
    return max(1, min(round(4 * math.sqrt(vectors)), vectors // SAMPLE))


def _of_its_size(index: Any, exact_up_to: int, progress: Progress | None) -> Any:
    """The index, or one of the other kind where its size asks for it, or with lists for four times as many.

    Back to an exact one only at half the size, so that it does not go to and fro.
    """
    total, lists = index.ntotal, _lists(index)
    other: Any
    if lists and 2 * total <= exact_up_to:
        other = _flat(index.d)
    elif total > exact_up_to and _wanted_lists(total) >= 2 * max(lists, 1):
        other = faiss.index_factory(index.d, f"IVF{_wanted_lists(total)},Flat", faiss.METRIC_INNER_PRODUCT)
        other.cp.niter, other.cp.min_points_per_centroid = ROUNDS, 1
        every = max(1, total // (SAMPLE * other.nlist))
        other.train(np.concatenate([rows[::every] for _, rows in _held(index)]))
    else:
        return index
    done = 0
    for labels, rows in _held(index):
        other.add_with_ids(rows, labels)
        done += len(labels)
        if progress:
            progress("index", done, total, "vectors")
    return other


def _held(index: Any) -> Iterator[tuple[Labels, Vectors]]:
    """Labels and vectors (n, dimension) of all that it holds, part by part; valid until it changes."""
    start = 0
    for number, labels in enumerate(_held_labels(index)):
        size = len(labels)
        if not size:
            continue
        if _lists(index):
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size)
            yield labels, codes.view(np.float32).reshape(size, -1)
        else:
            yield labels, index.index.reconstruct_n(start, size)
        start += size


def _held_labels(index: Any) -> Iterator[Labels]:
    """The labels of each list, in order; of an index without lists, in blocks."""
    if _lists(index):
        for number in range(index.nlist):
            size = index.invlists.list_size(number)
            yield faiss.rev_swig_ptr(index.invlists.get_ids(number), size) if size else np.empty(0, np.int64)
        return
    labels = faiss.vector_to_array(index.id_map)
    for start in range(0, len(labels), BLOCK):
        yield labels[start : start + BLOCK]


def _labels(ids: Iterable[str]) -> Labels:
    """FAISS labels are signed: the same 64 bits."""
    return np.array([as_number(id_) for id_ in ids], dtype=np.uint64).view(np.int64)
