"""How fast a search is: 100,000 passages on one machine, one question at a time, its encoder apart.

Passages and vectors are made up (see made_up.py); the questions are real. Few different words in many
passages make the lexical search slower here than on as many real passages.
Goal: fused at most 25 ms in the median, on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fieldstone.library import Library
from fieldstone.search import Index, search
from fieldstone.search.dense import DenseIndex
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.settings import SearchSettings
from machine import begin, data, peak_memory, spread, table
from made_up import Remembered, make

STORES = ("faiss://{}/vectors.faiss", "chroma://{}/chroma", "qdrant://{}/qdrant")
"""In this process. Qdrant's way of keeping vectors there takes minutes to hours for 100,000 of them."""

DEPTH = 100
"""How deep each search goes before fusion: the default of search.candidates."""


def main() -> None:
    """Make the library in a process of its own, then open it here and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    data(parser, "documents", "documents/squad8_txt")
    data(parser, "questions", "squad/squad8_questions.jsonl")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--ask", type=int, default=200, help="questions (default 200)")
    parser.add_argument("--runs", type=int, default=3, help="times that all questions are asked (default 3)")
    parser.add_argument(
        "--stores",
        nargs="*",
        metavar="URL",
        help="vector stores on the same vectors too (default: all three)",
    )
    parser.add_argument("--keep", type=Path, help="make the library in this folder, or take it from there")
    arguments = begin(parser)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        if not (folder / "lexical" / "mark.json").exists():  # the last thing that is written
            facts = (folder, arguments.documents, arguments.questions, arguments.passages, arguments.ask)
            maker = get_context("spawn").Process(target=make, args=(*facts, arguments.threads))
            maker.start()  # its encoder and texts shall not count as memory of the search
            maker.join()
        index, encoder = _open(folder)
        _time_searches(index, encoder, arguments.runs)
        if arguments.stores is not None:
            urls = arguments.stores or [template.format(temporary) for template in STORES]
            _time_stores(index, encoder, arguments.runs, ["memory:", *urls])


def _open(folder: Path) -> tuple[Index, Remembered]:
    """The index as a command would open it, with what that costs."""
    encoder = Remembered(folder)
    before, began = peak_memory(), time.perf_counter()
    library = Library(folder / "library.db")
    dense = DenseIndex(library, encoder, open_store("memory:", encoder.dimension, encoder.fingerprint))
    index = Index(library, LexicalIndex(folder / "lexical", library), dense)
    search(index, encoder.questions[:1], SearchSettings(rerank="none"))
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file())
    table(
        ["library", ""],
        [
            ["passages, recombined sentences, vectors made up", f"{library.counts().passages:,}"],
            ["on disk, library and lexical index", f"{size / 2**20:,.0f} MiB"],
            ["from opening to the first answer", f"{seconds:.2f} s"],
            [
                "memory at most, without an encoder",
                f"{peak_memory():,.0f} MiB ({before:,.0f} before opening)",
            ],
        ],
    )
    return index, encoder


def _time_searches(index: Index, encoder: Remembered, runs: int) -> None:
    rows = []
    for mode in ("dense", "lexical", "fused"):
        settings = SearchSettings.model_validate({"mode": mode, "rerank": "none", "candidates": DEPTH})
        ask = partial(search, index, settings=settings, k=10)
        rows.append([mode, *_quantiles(ask, encoder.questions, runs)])
    table([f"search, {len(encoder.questions)} questions x {runs} runs", "p50, ms", "p95, ms"], rows)


def _time_stores(index: Index, encoder: Remembered, runs: int, urls: list[str]) -> None:
    """The same vectors in each store, and how many of the ten nearest it finds."""
    rows = []
    exact: list[set[str]] = []
    for url in urls:
        store = open_store(url, encoder.dimension, encoder.fingerprint)
        dense = DenseIndex(index.library, encoder, store)
        began = time.perf_counter()
        dense.refresh()
        filled = time.perf_counter() - began
        times = _quantiles(partial(dense.search, k=DEPTH), encoder.questions, runs)
        found = [{id_ for id_, _ in ranking} for ranking in dense.search(encoder.questions, 10)]
        exact = exact or found
        share = np.mean([len(a & b) / 10 for a, b in zip(found, exact, strict=True)])
        rows.append([url.partition(":")[0], f"{filled:.1f}", *times, f"{share:.3f}"])
        store.close()
    table([f"store, dense, {DEPTH} deep", "filled, s", "p50, ms", "p95, ms", "of the exact ten"], rows)


def _quantiles(ask: Callable[[list[str]], object], questions: list[str], runs: int) -> list[str]:
    """Median and 95th percentile over the questions, asked one by one: the middle and range of the runs."""
    times = np.zeros((runs, len(questions)))
    ask(questions[:1])
    for run in range(runs):
        for i, question in enumerate(questions):
            began = time.perf_counter()
            ask([question])
            times[run, i] = 1000 * (time.perf_counter() - began)
    return [spread(np.percentile(times, share, axis=1).tolist()) for share in (50, 95)]


if __name__ == "__main__":
    main()
