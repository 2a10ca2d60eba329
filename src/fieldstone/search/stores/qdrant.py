"""Vectors in Qdrant: a server, or its local mode in this process, which suits some 20,000 vectors."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

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

BATCH = 1000
"""Points a request: at a dimension of 384 some 8 MB of JSON, of the 32 MB that a server takes."""

INDEXED_ABOVE = 10_000
"""Kilobytes of a segment above which a server builds an index over it: Qdrant's default."""

MANY = 20_000
"""So many vectors are loaded without an index, which is built once they are there."""

OVERSAMPLING = {"int8": 2.0, "binary": 4.0}
"""How many times k are found among quantised vectors and then scored by whole ones."""


class QdrantStore:
    """One collection; a point's id is the passage id as a number, and it carries nothing else."""

    def __init__(self, url: str, client: QdrantClient, collection: str, settings: StoreSettings) -> None:
        self._url = url
        self._client = client
        self._collection = collection
        self._params = None
        if settings.quantization != "none":
            how = models.QuantizationSearchParams(
                rescore=True, oversampling=OVERSAMPLING[settings.quantization]
            )
            self._params = models.SearchParams(quantization=how)

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

    @contextmanager
    def loading(self, count: int, progress: Progress) -> Iterator[None]:
        """Many are added without an index over them, which a server then builds at one go.

        Also where a load before this one was stopped and has left the collection without.
        """
        if isinstance(folder_or_server(self._url), Path) or (count < MANY and self._indexes()):
            yield
            return
        self._index_above(0)  # 0: never
        yield
        self._index_above(INDEXED_ABOVE)
        while True:
            with _explained(self._url):
                now = self._client.get_collection(self._collection)
            total = now.points_count or 0
            if now.status != models.CollectionStatus.GREEN:
                progress("index", min(now.indexed_vectors_count or 0, total - 1), total, "vectors")
                time.sleep(1)
                continue
            progress("index", total, total, "vectors")
            return

    def _indexes(self) -> bool:
        with _explained(self._url):
            config = self._client.get_collection(self._collection).config
        return bool(config.optimizer_config.indexing_threshold != 0)

    def _index_above(self, kilobytes: int) -> None:
        with _explained(self._url):
            self._client.update_collection(
                self._collection,
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=kilobytes),
            )

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
            models.QueryRequest(query=row, filter=chosen, limit=k, params=self._params)
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


def open_qdrant(url: str, dimension: int, collection: str, settings: StoreSettings) -> QdrantStore:
    """The collection `fieldstone-COLLECTION` of a Qdrant folder or server.

    Raises StoreError for one that is there and was made with other settings.
    """
    place = folder_or_server(url)
    name = f"fieldstone-{collection}"
    with _explained(url):
        if isinstance(place, Path):
            client = QdrantClient(path=str(place), force_disable_check_same_thread=True)
        else:
            client = QdrantClient(host=place[0], port=place[1] or 6333, check_compatibility=False)
        try:
            if not client.collection_exists(name):
                client.create_collection(
                    name,
                    vectors_config=models.VectorParams(
                        size=dimension, distance=models.Distance.COSINE, on_disk=settings.on_disk
                    ),
                    shard_number=settings.shards or None,
                    replication_factor=settings.replicas,
                    quantization_config=_quantized(settings),
                )
            config = client.get_collection(name).config
        except BaseException:
            client.close()
            raise
    try:
        if (there := config.params.vectors.size) != dimension:
            raise other_dimension(url, name, there, dimension)
        if not isinstance(place, Path) and (differs := _differing(config, settings)):
            raise StoreError(
                f"collection {name} at {url} was made with {differs}; delete it there to have it made anew, "
                "or set what it was made with"
            )
    except BaseException:
        client.close()
        raise
    return QdrantStore(url, client, name, settings)


def _quantized(settings: StoreSettings) -> models.QuantizationConfig | None:
    """What is searched in the place of whole vectors, in memory always."""
    if settings.quantization == "int8":
        # the rarest hundredth of the components may be cut off: the others are told apart the better
        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=int8)
    if settings.quantization == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def _differing(config: models.CollectionConfig, settings: StoreSettings) -> str:
    """The settings that a collection was made with, where they are not these; empty if they are."""
    quantized = config.quantization_config
    kind = "none" if quantized is None else "int8" if hasattr(quantized, "scalar") else "binary"
    there = {
        "shards": config.params.shard_number or 1,
        "replicas": config.params.replication_factor or 1,
        "on_disk": bool(config.params.vectors.on_disk),
        "quantization": kind,
    }
    wanted = settings.model_dump(include=set(there))
    if not settings.shards:
        del there["shards"]
    return ", ".join(f"store.{name} = {its}" for name, its in there.items() if its != wanted[name])


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
