"""Vectors in a FAISS file, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from fieldstone.errors import StoreError
from fieldstone.search.stores import (
    Found,
    Vectors,
    as_id,
    as_number,
    folder_or_server,
    last_of_each,
    other_dimension,
)

NOTHING = np.finfo(np.float32).min
"""The score of the places that FAISS could not fill."""


class FaissStore:
    """Inner products with every vector (IndexFlatIP), in one file.

    Every `add` and `remove` writes the whole file anew, so add many at once. A kill leaves the file as it
    was before or after the call.
    """

    def __init__(self, path: Path, index: faiss.IndexIDMap2) -> None:
        self._path = path
        self._index = index

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Keep `vectors` (n, dimension) under `ids`."""
        if len(ids):
            kept, rows = last_of_each(ids, vectors)
            self._index.remove_ids(faiss.IDSelectorBatch(_labels(kept)))
            self._index.add_with_ids(rows, _labels(kept))
            self._save()

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these ids."""
        if len(ids) and self._index.remove_ids(faiss.IDSelectorBatch(_labels(ids))):
            self._save()

    def search(self, vectors: Vectors, k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest of each row of `vectors`, among `only` where it is given."""
        k = min(k, self._index.ntotal if only is None else len(only))
        if k <= 0 or not self._index.ntotal or not len(vectors):
            return [[] for _ in vectors]
        parameters = faiss.SearchParameters()
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
        return {as_id(int(n)) for n in faiss.vector_to_array(self._index.id_map).view(np.uint64)}

    def close(self) -> None:
        """Nothing to let go of: the file is up to date."""

    def _save(self) -> None:
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


def open_faiss(url: str, dimension: int, collection: str) -> FaissStore:
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
        return FaissStore(path, faiss.IndexIDMap2(faiss.IndexFlatIP(dimension)))
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{path} is no FAISS file ({reason}); delete it, and it comes back") from None
    if not isinstance(index, faiss.IndexIDMap2):
        raise StoreError(f"{path} is a FAISS file, but none of ours; name another place")
    if index.d != dimension:
        raise other_dimension(url, collection, index.d, dimension)
    return FaissStore(path, index)


def _labels(ids: Iterable[str]) -> NDArray[np.int64]:
    """FAISS labels are signed: the same 64 bits."""
    return np.array([as_number(id_) for id_ in ids], dtype=np.uint64).view(np.int64)
