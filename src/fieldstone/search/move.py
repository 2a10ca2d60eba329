"""Move a workspace's vectors into another store, and search there from then on.

The library keeps every vector and stays the source of truth, so it is what a store is filled from, whichever
store was searched before; nothing is taken out of that one. The lexical index stays where it is.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from fieldstone.errors import WorkspaceError
from fieldstone.library import Library
from fieldstone.models import Vectors
from fieldstone.progress import Progress, silent
from fieldstone.search.follow import follow
from fieldstone.search.open import open_vectors
from fieldstone.search.stores import Store
from fieldstone.settings import Settings, write_settings_file
from fieldstone.workspace import Workspace

ASKED = 200
"""Passages whose neighbours tell how many of the nearest a store finds."""

DEPTH = 10


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of it; `recall`: the share of the ten nearest of an exact search that the store finds."""

    store: str
    vectors: int
    recall: float | None
    seconds: float


def move_store(workspace: Workspace, settings: Settings, progress: Progress = silent) -> Moved:
    """Fill the store that `settings.search.store` names, then switch to it in the workspace's settings.

    Until the last vector is there, the workspace searches where it did; stopped, it goes on where it was.
    Raises WorkspaceError for a workspace without vectors, StoreError for a store that does not work.
    """
    began = time.perf_counter()
    url = settings.search.store
    with workspace.writing(), closing(workspace.library()) as library:
        encoder = library.meta("encoder")
        dimension = library.dimension(encoder) if encoder else None
        if encoder is None or dimension is None:
            raise WorkspaceError(
                f"{workspace.path} holds no vectors to move; "
                f"type: fieldstone build FOLDER --into {workspace.path}"
            )
        recall, count = None, library.counts().embedded
        if url != "library":
            with closing(open_vectors(library, url, dimension, encoder, settings.store)) as store:
                count = len(follow(library, encoder, store, progress=progress))
                recall = recall_of(store, library, encoder, progress)
        write_settings_file(workspace.settings_file, settings)
        moved = Moved(url, count, recall, round(time.perf_counter() - began, 3))
        workspace.journal("move-store", **asdict(moved), settings=settings.store.model_dump(mode="json"))
    return moved


def recall_of(store: Store, library: Library, encoder: str, progress: Progress = silent) -> float:
    """The share of the ten nearest, by an exact search, of some passages that the store finds too.

    The vectors are read once more, batch by batch, so that they need not fit into memory.
    """
    total = library.counts().embedded
    wanted = sorted(library.embedded(encoder))[:: max(1, total // ASKED)][:ASKED]  # ids are hashes: by chance
    questions = np.concatenate([rows for _, rows in library.vectors(encoder, wanted)])
    best = np.full((len(questions), DEPTH), -np.inf, np.float32)
    nearest = np.full((len(questions), DEPTH), "", dtype=object)
    done = 0
    for ids, rows in library.all_vectors(encoder):
        best, nearest = _better(best, nearest, questions @ rows.T, np.array(ids, dtype=object))
        done += len(ids)
        progress("check", done, total, "vectors")
    found = store.search(questions, DEPTH)
    exact = [{id_ for id_ in row if id_} for row in nearest]
    hits = [len(its & {id_ for id_, _ in row}) for its, row in zip(exact, found, strict=True)]
    return sum(hits) / sum(map(len, exact))


def _better(
    best: Vectors, nearest: NDArray[np.object_], scores: Vectors, ids: NDArray[np.object_]
) -> tuple[Vectors, NDArray[np.object_]]:
    """The best of those so far (questions, depth) and of these scores (questions, n) of these ids."""
    both = np.concatenate([best, scores], axis=1)
    names = np.concatenate([nearest, np.broadcast_to(ids, scores.shape)], axis=1)
    places = np.argpartition(both, -DEPTH, axis=1)[:, -DEPTH:]
    return np.take_along_axis(both, places, 1), np.take_along_axis(names, places, 1)
