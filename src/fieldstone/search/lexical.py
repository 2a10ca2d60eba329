"""Lexical search: BM25 over the library's passages, in a tantivy index that can be deleted at any time."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import tantivy
from filelock import FileLock

from fieldstone.atomic import write_json
from fieldstone.library import Library, Mark
from fieldstone.search.stores import Found
from fieldstone.search.words import VERSION, index_words

WRITER_BYTES = 64_000_000

STALE = 0.05
"""The index is made anew once this share of what was added has been removed: tantivy's word statistics
go on counting what was removed."""


class LexicalIndex:
    """BM25 (tantivy's: k1 1.2, b 0.75) over title, headings and text of the passages of a library.

    Kept in `folder`, brought up to date with the library by `refresh`.
    """

    def __init__(self, folder: Path, library: Library) -> None:
        self._folder = folder
        self._library = library
        self._schema = (
            tantivy.SchemaBuilder()
            .add_integer_field("row", indexed=True, fast=True)
            .add_text_field("body", tokenizer_name="whitespace", index_option="freq")
            .build()
        )
        self._index: tantivy.Index | None = None
        self._mark: Mark | None = None

    def refresh(self) -> None:
        """Take in what the library gained and lost since the last time."""
        if self._mark == self._library.mark():
            return
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._folder}.lock"), self._library.snapshot():
            now = self._library.mark()
            then, whole = self._read_mark()
            stale = now.removed - whole > STALE * self._library.counts().passages
            try:
                self._index = self._follow(None if stale else then, whole, now)
            except (OSError, ValueError):  # damaged
                self._index = self._follow(None, whole, now)
            self._mark = now

    def search(self, questions: Sequence[str], k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` best passages of each question, among `only` where given; none shares no word with it."""
        self.refresh()
        assert self._index is not None
        searcher = self._index.searcher()
        among = None
        if only is not None:
            rows = list(self._library.rows(only).values())
            if not rows:
                return [[] for _ in questions]
            if len(rows) < searcher.num_docs:
                among = tantivy.Query.const_score_query(
                    tantivy.Query.term_set_query(self._schema, "row", rows), 0.0
                )
        ranked = [self._ranked(searcher, question, k, among) for question in questions]
        ids = self._library.ids(sorted({row for found in ranked for row, _ in found}))
        return [[(ids[row], score) for row, score in found if row in ids] for found in ranked]

    def rarity(self, words: Collection[str]) -> dict[str, float]:
        """Word -> inverse document frequency, as in BM25: high for a word that few passages hold."""
        self.refresh()
        assert self._index is not None
        searcher = self._index.searcher()
        counts = {word: searcher.doc_freq("body", word) for word in words}
        return {w: math.log(1 + (searcher.num_docs - n + 0.5) / (n + 0.5)) for w, n in counts.items()}

    def _ranked(
        self, searcher: tantivy.Searcher, question: str, k: int, among: tantivy.Query | None
    ) -> list[tuple[int, float]]:
        words = dict.fromkeys(index_words(question))
        terms = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "body", w, "freq")) for w in words
        ]
        if not terms:
            return []
        query = tantivy.Query.boolean_query(terms)
        if among is not None:
            query = tantivy.Query.boolean_query([(tantivy.Occur.Must, query), (tantivy.Occur.Must, among)])
        hits = searcher.search(query, min(k, max(searcher.num_docs, 1)), count=False).hits
        rows = searcher.fast_field_values("row", [address for _, address in hits])
        found = [(int(row), float(score)) for row, (score, _) in zip(rows, hits, strict=True)]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))  # equal scores in a fixed order

    def _follow(self, then: Mark | None, whole: int, now: Mark) -> tantivy.Index:
        """The index, brought from `then` to `now`; made anew where `then` is not on the way.

        `whole`: how many removals there had been when it was last made anew.
        """
        if then is None or then.library != now.library or then.added > now.added:
            if self._folder.exists() and not self._folder.is_dir():
                self._folder.unlink()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            then, whole = Mark(now.library, 0, now.removed), now.removed
        index = self._open()
        if then != now:
            self._write(index, then, now)
            self._write_mark(now, whole)
            index.reload()
        return index

    def _open(self) -> tantivy.Index:
        index = tantivy.Index(self._schema, path=str(self._folder))
        plain = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        index.register_tokenizer("whitespace", plain)
        return index

    def _write(self, index: tantivy.Index, then: Mark, now: Mark) -> None:
        empty = not index.searcher().num_docs
        writer = index.writer(WRITER_BYTES, 1)
        for gone, _id in self._library.removed(then.removed):
            writer.delete_documents_by_term("row", gone)
        for row, _, text in self._library.texts(then.added, now.added):
            if not empty:  # a kill between commit and mark leaves it there
                writer.delete_documents_by_term("row", row)
            writer.add_document(tantivy.Document(row=row, body=" ".join(index_words(text))))
        writer.commit()
        writer.wait_merging_threads()

    def _read_mark(self) -> tuple[Mark | None, int]:
        try:
            if not tantivy.Index.exists(str(self._folder)):
                return None, 0
            data = json.loads((self._folder / "mark.json").read_text())
            return (Mark(*data["mark"]) if data["words"] == VERSION else None), int(data["whole"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, 0  # missing or damaged: the index is made anew

    def _write_mark(self, mark: Mark, whole: int) -> None:
        place = [mark.library, mark.added, mark.removed]
        write_json(self._folder / "mark.json", {"mark": place, "whole": whole, "words": VERSION})
