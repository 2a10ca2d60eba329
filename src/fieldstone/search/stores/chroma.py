"""Vectors in Chroma: a server, or a folder in this process. Its index is approximate (HNSW)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import chromadb
import httpx
import numpy as np
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError

from fieldstone.errors import StoreError
from fieldstone.progress import Progress
from fieldstone.search.stores import Found, Vectors, folder_or_server, last_of_each, other_dimension
from fieldstone.settings import StoreSettings

INDEX = {"hnsw": {"space": "ip", "ef_construction": 200, "ef_search": 200}}
"""Inner product of unit vectors; twice Chroma's default effort, for a recall near that of an exact search."""


class ChromaStore:
    """One collection; its ids are the passage ids."""

    def __init__(self, url: str, client: Any, collection: Any) -> None:
        self._url = url
        self._client = client
        self._collection = collection
        self._batch = int(client.get_max_batch_size())

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Keep `vectors` (n, dimension) under `ids`."""
        kept, rows = last_of_each(ids, vectors)
        for start in range(0, len(kept), self._batch):
            part = slice(start, start + self._batch)
            with _explained(self._url):
                self._collection.upsert(ids=kept[part], embeddings=rows[part])

    def loading(self, count: int, progress: Progress) -> AbstractContextManager[None]:
        """Chroma indexes what it is given at once, always."""
        del count, progress
        return nullcontext()

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these ids."""
        there = self._held(ids)
        for start in range(0, len(there), self._batch):
            with _explained(self._url):
                self._collection.delete(ids=there[start : start + self._batch])

    def search(self, vectors: Vectors, k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest of each row of `vectors`, among `only` where it is given."""
        chosen = None if only is None else self._held(only)  # Chroma fails on an id that it does not hold
        if k <= 0 or not len(vectors) or (chosen is not None and not chosen):
            return [[] for _ in vectors]
        with _explained(self._url):
            found = self._collection.query(
                query_embeddings=np.asarray(vectors, np.float32),
                n_results=k,
                ids=chosen,
                include=["distances"],
            )
        return [
            [(id_, 1.0 - distance) for id_, distance in zip(ids, distances, strict=True)]
            for ids, distances in zip(found["ids"], found["distances"], strict=True)
        ]

    def ids(self) -> set[str]:
        """Every id it holds."""
        found: set[str] = set()
        while True:
            with _explained(self._url):
                page = self._collection.get(include=[], limit=self._batch, offset=len(found))["ids"]
            found.update(page)
            if len(page) < self._batch:
                return found

    def close(self) -> None:
        """Let go of the folder or the connection."""
        self._client.close()

    def _held(self, ids: Collection[str]) -> list[str]:
        wanted = list(dict.fromkeys(ids))
        held: list[str] = []
        for start in range(0, len(wanted), self._batch):
            with _explained(self._url):
                held += self._collection.get(ids=wanted[start : start + self._batch], include=[])["ids"]
        return held


def open_chroma(url: str, dimension: int, collection: str, settings: StoreSettings) -> ChromaStore:
    """The collection `fieldstone-COLLECTION` of a Chroma folder or server; it heeds none of the settings."""
    del settings
    place = folder_or_server(url)
    quiet = Settings(anonymized_telemetry=False)
    with _explained(url):
        if isinstance(place, Path):
            client = chromadb.PersistentClient(str(place), settings=quiet)
        else:
            client = chromadb.HttpClient(place[0], place[1] or 8000, settings=quiet)
        name = f"fieldstone-{collection}"
        try:
            try:
                found = client.get_collection(name, embedding_function=None)
            except NotFoundError:
                found = client.create_collection(
                    name, embedding_function=None, metadata={"dimension": dimension}, configuration=INDEX
                )
            there = int(found.metadata["dimension"])
            if there != dimension:
                raise other_dimension(url, name, there, dimension)
            return ChromaStore(url, client, found)
        except BaseException:
            client.close()
            raise


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What goes wrong between us and Chroma, as a StoreError."""
    try:
        yield
    except (ChromaError, httpx.HTTPError, OSError, ValueError) as error:
        place = folder_or_server(url)
        hint = "name another place"
        if not isinstance(place, Path):
            hint = f"start it with: chroma run --host {place[0]} --port {place[1] or 8000} --path FOLDER"
        raise StoreError(f"{url} does not work: {error}; {hint}") from None
