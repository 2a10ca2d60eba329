"""Vectors in Qdrant: a server, or its local mode in this process, which suits some 20,000 vectors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

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

BATCH = 1000
"""Points a request: at a dimension of 384 some 8 MB of JSON, of the 32 MB that a server takes."""


class QdrantStore:
    """One collection; a point's id is the passage id as a number, and it carries nothing else."""

    def __init__(self, url: str, client: QdrantClient, collection: str) -> None:
        self._url = url
        self._client = client
        self._collection = collection

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Keep `vectors` (n, dimension) under `ids`."""
        kept, rows = last_of_each(ids, vectors)
        for start in range(0, len(kept), BATCH):
            points = [
                models.PointStruct(id=as_number(id_), vector=row)
                for id_, row in zip(
                    kept[start : start + BATCH], rows[start : start + BATCH].tolist(), strict=True
                )
            ]
            with _explained(self._url):
                self._client.upsert(self._collection, points, wait=True)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these ids."""
        if len(ids):
            points = models.PointIdsList(points=[as_number(id_) for id_ in ids])
            with _explained(self._url):
                self._client.delete(self._collection, points, wait=True)

    def search(self, vectors: Vectors, k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest of each row of `vectors`, among `only` where it is given."""
        if k <= 0 or not len(vectors) or (only is not None and not only):
            return [[] for _ in vectors]
        chosen = None
        if only is not None:
            chosen = models.Filter(must=[models.HasIdCondition(has_id=[as_number(id_) for id_ in only])])
        requests = [
            models.QueryRequest(query=row, filter=chosen, limit=k)
            for row in np.asarray(vectors, np.float32).tolist()
        ]
        with _explained(self._url):
            responses = self._client.query_batch_points(self._collection, requests)
        return [[(as_id(point.id), float(point.score)) for point in found.points] for found in responses]

    def ids(self) -> set[str]:
        """Every id it holds."""
        found: set[str] = set()
        after = None
        while True:
            with _explained(self._url):
                points, after = self._client.scroll(
                    self._collection, limit=10 * BATCH, offset=after, with_payload=False, with_vectors=False
                )
            found.update(as_id(point.id) for point in points)
            if after is None:
                return found

    def close(self) -> None:
        """Let go of the folder or the connection."""
        self._client.close()


def open_qdrant(url: str, dimension: int, collection: str) -> QdrantStore:
    """The collection `fieldstone-COLLECTION` of a Qdrant folder or server."""
    place = folder_or_server(url)
    name = f"fieldstone-{collection}"
    with _explained(url):
        if isinstance(place, Path):
            client = QdrantClient(path=str(place), force_disable_check_same_thread=True)
        else:
            client = QdrantClient(host=place[0], port=place[1] or 6333, check_compatibility=False)
        try:
            if not client.collection_exists(name):
                size = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
                client.create_collection(name, vectors_config=size)
            there = client.get_collection(name).config.params.vectors.size
        except BaseException:
            client.close()
            raise
    if there != dimension:
        client.close()
        raise other_dimension(url, name, there, dimension)
    return QdrantStore(url, client, name)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What goes wrong between us and Qdrant, as a StoreError."""
    try:
        yield
    except (ApiException, QdrantException, httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        hint = "start it with: docker run -p 6333:6333 qdrant/qdrant"
        if isinstance(folder_or_server(url), Path):
            hint = "close what else uses that folder, or name another place"
        raise StoreError(f"{url} does not work: {error}; {hint}") from None
