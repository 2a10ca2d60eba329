"""How fast a search is: 100,000 passages on one machine, one question at a time, its encoder apart.

Passages and vectors are made up (see made_up.py); the questions are real. Few different words in many
passages make the lexical search slower here than on as many real passages.
Goal: fused at most 25 ms in the median, on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

from fieldstone.library import Library
from fieldstone.search import Index, search
from fieldstone.search.dense import DenseIndex
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.settings import SearchSettings
from machine import begin, data, peak_memory, quantiles, table
from made_up import Remembered, made

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
    parser.add_argument("--keep", type=Path, help="make the library in this folder, or take it from there")
    arguments = begin(parser)
    with tempfile.TemporaryDirectory() as temporary:
        folder = made(arguments, Path(temporary))
        index, encoder = _open(folder)
        _time_searches(index, encoder, arguments.runs)


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
        rows.append([mode, *quantiles(ask, encoder.questions, runs)])
    table([f"search, {len(encoder.questions)} questions x {runs} runs", "p50, ms", "p95, ms"], rows)


if __name__ == "__main__":
    main()
