"""The store seam: vectors at rest and searched.

The library itself is the default store and the source of truth; another store holds a copy, which is
brought up to date from the library and can be deleted at any time. A store is named by its URL:

    memory:                      a matrix in memory, searched exactly
    faiss:///folder/name.faiss   a FAISS file, searched exactly, above a size approximately
    qdrant:///folder             Qdrant in this process      qdrant://host:6333   a Qdrant server
    chroma:///folder             Chroma in this process      chroma://host:8000   a Chroma server

A path may be relative (`faiss:name.faiss`). A package of your own adds a scheme as an entry point in the
group `fieldstone.stores`: a function of (url, dimension, collection, settings) that returns a Store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fieldstone.errors import MissingExtra, StoreError
from fieldstone.progress import Progress
from fieldstone.settings import StoreSettings

Vectors = NDArray[np.float32]
Found = list[tuple[str, float]]
"""(passage id, cosine similarity) pairs, best first."""


class Store(Protocol):
    """Unit vectors under passage ids.

    Adding an id again replaces its vector; removing an unknown id is no error.
    """

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Keep `vectors` (n, dimension) under `ids`; when it returns they are found and survive a kill."""
        ...

    def loading(self, count: int, progress: Progress) -> AbstractContextManager[None]:
        """Some `count` vectors are added in the block: what can wait until its end (an index, say) may.

        A kill in the block may lose a part of what was added in it, but nothing else.
        """
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these ids."""
        ...

    def search(self, vectors: Vectors, k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest of each row of `vectors` (q, dimension), among `only` where it is given."""
        ...

    def ids(self) -> set[str]:
        """Every id it holds."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


GROUP = "fieldstone.stores"
BUILT_IN = {
    "memory": "fieldstone.search.stores.memory:open_memory",
    "faiss": "fieldstone.search.stores.faiss:open_faiss",
    "qdrant": "fieldstone.search.stores.qdrant:open_qdrant",
    "chroma": "fieldstone.search.stores.chroma:open_chroma",
}

Opener = Callable[[str, int, str, StoreSettings], Store]


def open_store(url: str, dimension: int, collection: str, settings: StoreSettings | None = None) -> Store:
    """The store at `url` for vectors of this dimension; made if there is none.

    `collection` names a library and the encoder of its vectors: a vector never meets an encoder that did not
    make it, and no library takes out what another one keeps in the same place.
    Raises StoreError where the store cannot be opened, MissingExtra where its package is not installed.
    """
    scheme = url.partition(":")[0]
    doors = {name: EntryPoint(name, target, GROUP) for name, target in BUILT_IN.items()}
    doors |= {door.name: door for door in entry_points(group=GROUP)}
    if scheme not in doors:
        known = ", ".join(f"{name}:" for name in sorted(doors))
        raise StoreError(f"there is no store {url!r}; a store begins with one of {known}")
    try:
        opener = cast(Opener, doors[scheme].load())
    except ModuleNotFoundError as error:
        if scheme in BUILT_IN:
            raise MissingExtra(error.name or scheme, scheme) from None
        raise StoreError(
            f"{url!r} needs the package {error.name!r}; type: pip install {error.name}"
        ) from None
    return opener(url, dimension, collection, settings or StoreSettings())


# -- what the stores share


def folder_or_server(url: str) -> Path | tuple[str, int | None]:
    """The path that a store's URL names, or its host and port. Raises StoreError when it names neither."""
    rest = url.partition(":")[2]
    if not rest.startswith("//"):
        server, path = "", rest
    else:
        server, slash, path = rest[2:].partition("/")
        path = slash + path
    host, _, port = server.partition(":")
    if server and path in ("", "/") and host and (port.isdecimal() or not port):
        return host, int(port) if port else None
    if not server and path:
        return Path(path)
    scheme = url.partition(":")[0]
    raise StoreError(f"{url!r} names no place; write {scheme}:///folder/name or {scheme}://host:port")


def other_dimension(url: str, collection: str, there: int, wanted: int) -> StoreError:
    """What to say when a collection holds vectors of another length."""
    return StoreError(
        f"collection {collection} at {url} holds vectors of dimension {there}, the encoder makes {wanted}; "
        "delete it there, or name another place with --set search.store=URL"
    )


def last_of_each(ids: Sequence[str], vectors: Vectors) -> tuple[list[str], Vectors]:
    """The same without repeated ids, of which the last one counts."""
    rows = {id_: row for row, id_ in enumerate(ids)}
    return list(rows), np.ascontiguousarray(vectors[list(rows.values())], dtype=np.float32)


def as_number(id_: str) -> int:
    """The 64-bit number whose 16 hex digits are this passage id, for stores that know no other ids."""
    if len(id_) != 16:
        raise ValueError(f"{id_!r} is no passage id of 16 hex digits")
    return int(id_, 16)


def as_id(number: int) -> str:
    """The passage id of a number."""
    return f"{number:016x}"
