"""Vector stores on the same vectors: time to fill and to open, memory, time to search, what they find.

The vectors are made up in heaps around real ones (see made_up.py), the questions real. Each store is filled
in one process and opened and asked, one question at a time, in another; recall@10 is the share of the ten
nearest of an exact search, also among a hundredth and a tenth of the passages. `faiss lists` is what our
FAISS store does above store.approximate_above, `hnsw` FAISS's own index of that name with its defaults of
M = 32 and efConstruction = 40, searched with 128; it can forget nothing.
Goal: where an exact search takes more than 50 ms, an approximate one with recall@10 of at least .98.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from fieldstone.library import Library
from fieldstone.search.follow import follow
from fieldstone.search.stores import Store, as_id, as_number, open_store
from fieldstone.settings import StoreSettings
from machine import begin, data, quantiles, table
from made_up import Remembered, made

NEVER = 2**62
STORES = {
    "library": ("memory:", NEVER),
    "faiss flat": ("faiss://{}/flat.faiss", NEVER),
    "faiss lists": ("faiss://{}/lists.faiss", 0),
    "hnsw": ("", NEVER),
    "chroma": ("chroma://{}/chroma", NEVER),
    "qdrant": ("qdrant://{}/qdrant", NEVER),
}
LOCAL = 20_000
"""Vectors that Qdrant's local mode is meant for; it takes minutes to hours to keep more."""

DEPTH = 100
"""How deep the search goes: the default of search.candidates."""

FILTERS = {"": 1.0, " of 1 %": 0.01, " of 10 %": 0.1}


def main() -> None:
    """Make the vectors, find the nearest exactly, then measure each store."""
    parser = argparse.ArgumentParser(description=__doc__)
    data(parser, "documents", "documents/squad8_txt")
    data(parser, "questions", "squad/squad8_questions.jsonl")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--ask", type=int, default=200, help="questions (default 200)")
    parser.add_argument("--runs", type=int, default=3, help="times that all questions are asked (default 3)")
    parser.add_argument("--stores", nargs="*", choices=list(STORES), metavar="NAME", default=list(STORES))
    parser.add_argument("--keep", type=Path, help="make the library in this folder, or take it from there")
    arguments = begin(parser)
    with tempfile.TemporaryDirectory() as temporary:
        folder = made(arguments, Path(temporary, "library"))
        (Path(temporary) / "exact.json").write_text(json.dumps(_exact(folder)))
        rows, filtered = [], []
        for name in arguments.stores:
            if name == "qdrant" and arguments.passages > LOCAL:
                continue
            filled = _apart(_fill, name, folder, Path(temporary))
            facts = _apart(_ask, name, folder, Path(temporary), arguments.runs)
            rows.append([name, f"{filled:,.1f}", *facts[""]])
            filtered.append([name, *facts[" of 1 %"], *facts[" of 10 %"]])
        head = [
            f"{arguments.passages:,} vectors",
            "filled, s",
            "opened, s",
            "MiB",
            "p50, ms",
            "p95, ms",
            "recall@10",
        ]
        table(head, rows)
        table(
            [
                "among some alone",
                *(
                    f"{what}{its}"
                    for its in list(FILTERS)[1:]
                    for what in ("p50, ms", "p95, ms", "recall@10")
                ),
            ],
            filtered,
        )


def _apart(work: Callable[..., None], *arguments: Any) -> Any:
    """What `work` sends back from a process of its own, so that its memory is its own."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, theirs))
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


def _exact(folder: Path) -> dict[str, list[list[str]]]:
    """Filter -> the ten nearest of each question, in one scan of the library."""
    encoder = Remembered(folder)
    questions = encoder.encode_queries(encoder.questions)
    best: dict[str, list[list[tuple[float, str]]]] = {name: [[] for _ in questions] for name in FILTERS}
    library = Library(folder / "library.db")
    for ids, vectors in library.all_vectors(encoder.fingerprint):
        scores = questions @ vectors.T
        for name, share in FILTERS.items():
            places = np.flatnonzero([_lets_through(id_, share) for id_ in ids])
            for row, its in enumerate(scores[:, places]):
                top = np.argsort(-its)[:10]
                found = [(float(its[i]), ids[places[i]]) for i in top]
                best[name][row] = sorted(best[name][row] + found, reverse=True)[:10]
    library.close()
    return {name: [[id_ for _, id_ in row] for row in rows] for name, rows in best.items()}


def _lets_through(id_: str, share: float) -> bool:
    """Ids are hashes: their first digits are as good as chance."""
    return int(id_[:4], 16) < share * 65536


def _fill(name: str, folder: Path, place: Path, answer: Any) -> None:
    library, began = Library(folder / "library.db"), time.perf_counter()
    follow(library, Remembered(folder).fingerprint, _open(name, folder, place))
    answer.send(time.perf_counter() - began)


def _ask(name: str, folder: Path, place: Path, runs: int, answer: Any) -> None:
    encoder, library = Remembered(folder), Library(folder / "library.db")
    ids = library.embedded(encoder.fingerprint)
    before, began = _memory(), time.perf_counter()
    store = _open(name, folder, place)
    if name == "library":
        follow(library, encoder.fingerprint, store)
    store.search(encoder.encode_queries(encoder.questions[:1]), DEPTH)
    opened = [f"{time.perf_counter() - began:.2f}", f"{_memory() - before:,.0f}"]
    exact = json.loads((place / "exact.json").read_text())
    facts = {}
    for filter_, share in FILTERS.items():
        only = None if share == 1 else {id_ for id_ in ids if _lets_through(id_, share)}
        ask = partial(_searched, store, encoder, only)
        times = quantiles(ask, encoder.questions, runs)
        found = [
            {id_ for id_, _ in row}
            for row in store.search(encoder.encode_queries(encoder.questions), 10, only)
        ]
        recall = np.mean(
            [len(its & set(right)) / len(right) for its, right in zip(found, exact[filter_], strict=True)]
        )
        facts[filter_] = [*([] if filter_ else opened), *times, f"{recall:.3f}"]
    answer.send(facts)


def _searched(store: Store, encoder: Remembered, only: set[str] | None, questions: list[str]) -> object:
    return store.search(encoder.encode_queries(questions), DEPTH, only)


def _memory() -> float:
    """What this process holds now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def _open(name: str, folder: Path, place: Path) -> Store:
    encoder = Remembered(folder)
    if name == "hnsw":
        return _Hnsw(place / "hnsw.faiss", encoder.dimension)
    url, above = STORES[name]
    settings = StoreSettings(approximate_above=above)
    return open_store(url.format(place), encoder.dimension, encoder.fingerprint, settings)


class _Hnsw:
    """FAISS's HNSW as others use it; of a store it can add and search."""

    def __init__(self, path: Path, dimension: int) -> None:
        import faiss

        self._path, self._faiss = path, faiss
        index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
        self._index = faiss.read_index(str(path)) if path.exists() else faiss.IndexIDMap(index)

    def add(self, ids: list[str], vectors: Any) -> None:
        self._index.add_with_ids(vectors, np.array([as_number(i) for i in ids], np.uint64).view(np.int64))

    def loading(self, *_: object) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def written() -> Any:
            yield
            self._faiss.write_index(self._index, str(self._path))

        return written()

    def search(self, vectors: Any, k: int, only: Any = None) -> list[list[tuple[str, float]]]:
        how = self._faiss.SearchParametersHNSW(efSearch=128)
        if only is not None:
            labels = np.array([as_number(i) for i in only], np.uint64).view(np.int64)
            chosen = self._faiss.IDSelectorBatch(labels)
            how.sel = chosen
        scores, labels = self._index.search(vectors, k, params=how)
        return [
            [(as_id(int(n)), float(s)) for n, s in zip(row, its, strict=True) if s > -1]
            for row, its in zip(labels.view(np.uint64), scores, strict=True)
        ]

    def ids(self) -> set[str]:
        return set()

    def remove(self, ids: list[str]) -> None:
        assert not ids

    def close(self) -> None:
        pass


if __name__ == "__main__":
    main()
