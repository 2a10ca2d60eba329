"""The library: one SQLite file with files, documents, passages and vectors; the one source of truth.

Written in short transactions, so a kill at any point loses at most the batch under way, and read by
any number of processes while one writes (write-ahead log). Everything that is derived from it (lexical
index, vector stores) follows its log of changes and can be deleted at any time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstone import schema
from fieldstone.errors import WorkspaceError
from fieldstone.records import Document, Heading, Passage, with_context

_LEFT_OUT = "left out"
"""The fact that lists what a person took out."""

_WRITES = "vector writes"
"""The fact that counts how often vectors were written or dropped."""

PASSAGE = 'passages.id, document, passages.text, start, "end", passages.headings, page'


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the library knows of a file; `reason` says why it gives no text."""

    source: str
    root: str
    content: str
    reader: str
    size: int
    reason: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileState:
    """How far a file has come: its size in bytes, its type, what it gave, how much of that has a vector.

    `reason` says why it gives no text, `warnings` what of it gave none.
    """

    source: str
    root: str
    size: int
    reason: str | None
    warnings: tuple[str, ...]
    type: str
    documents: int
    unsplit: int
    passages: int
    embedded: int


@dataclass(frozen=True, slots=True)
class Mark:
    """How far something that follows the library has come."""

    library: str
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is in a library."""

    files: int
    unread: int
    documents: int
    unsplit: int
    passages: int
    embedded: int
    characters: int


class Library:
    """One open `library.db`. Use it from one thread; open another one for another thread."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not path.exists() and not create:
            raise WorkspaceError(
                f"there is no library at {path}; make one with: fieldstone build FOLDER --into {path.parent}"
            )
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA foreign_keys = ON")
            version = schema.version_of(self._db)
            if version == 0 and create:
                self._db.execute("PRAGMA journal_mode = WAL")
                with self.transaction():
                    schema.create(self._db)
            elif version in schema.MIGRATIONS:
                with self.transaction():
                    schema.migrate(self._db)
            elif version != schema.VERSION:
                raise WorkspaceError(
                    f"{path} has schema {version}, this Fieldstone reads {schema.VERSION}; "
                    f"move {path.parent} away and type: fieldstone build FOLDER --into {path.parent}"
                )
            self._db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError as error:
            raise WorkspaceError(
                f"{path} cannot be opened as a library ({error}); move {path.parent} away "
                f"and type: fieldstone build FOLDER --into {path.parent}"
            ) from None
        self.id = str(self.meta("library"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read in the block is of one moment, whatever another process writes."""
        if self._db.in_transaction:  # inside another one
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    # -- small facts

    def meta(self, key: str) -> str | None:
        """A small fact, such as the fingerprint of the encoder in use."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a small fact."""
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def counts(self) -> Counts:
        """How much is in the library, all of one moment."""
        row = self._db.execute(
            """SELECT (SELECT count(*) FROM files), (SELECT count(*) FROM files WHERE reason IS NOT NULL),
                      count(*), coalesce(sum(split IS NULL), 0),
                      (SELECT count(*) FROM passages),
                      (SELECT count(*) FROM vectors
                        WHERE encoder = (SELECT value FROM meta WHERE key = 'encoder')),
                      coalesce(sum(length(text)), 0) FROM documents"""
        ).fetchone()
        return Counts(*row)

    # -- files and documents

    def roots(self) -> dict[str, str]:
        """Label -> path of the folders that were added; the first one's label is empty."""
        return dict(self._db.execute("SELECT label, path FROM roots"))

    def add_root(self, label: str, path: str) -> None:
        """Remember a folder, or where it has gone to."""
        self._db.execute(
            "INSERT INTO roots VALUES (?, ?) ON CONFLICT(label) DO UPDATE SET path = excluded.path",
            (label, path),
        )

    def files(self) -> dict[str, FileRow]:
        """Source -> what is known of each file, in order of source."""
        rows = self._db.execute(
            "SELECT source, root, content, reader, size, reason, warnings FROM files ORDER BY source"
        )
        return {
            source: FileRow(source, root, content, reader, size, reason, tuple(json.loads(warnings)))
            for source, root, content, reader, size, reason, warnings in rows
        }

    def file_states(self, after: str = "", most: int = -1) -> list[FileState]:
        """How far each file has come, in order of source, those behind `after`, at most so many."""
        rows = self._db.execute(
            """SELECT files.source, root, size, reason, warnings,
                      coalesce((SELECT json_extract(metadata, '$.type') FROM documents
                                 WHERE documents.source = files.source LIMIT 1), ''),
                      count(documents.id), coalesce(sum(documents.id IS NOT NULL AND split IS NULL), 0),
                      coalesce(sum((SELECT count(*) FROM passages WHERE document = documents.id)), 0),
                      coalesce(sum((SELECT count(*) FROM passages JOIN vectors ON passage = row
                                     WHERE document = documents.id AND encoder =
                                           (SELECT value FROM meta WHERE key = 'encoder'))), 0)
                 FROM files LEFT JOIN documents ON documents.source = files.source
                WHERE files.source > ? GROUP BY files.source ORDER BY files.source LIMIT ?""",
            (after, most),
        )
        return [
            FileState(source, root, size, reason, tuple(json.loads(warnings)), *rest)
            for source, root, size, reason, warnings, *rest in rows
        ]

    def put_file(self, file: FileRow, documents: Iterable[Document]) -> None:
        """Keep a file and its documents in the place of what its source held, in one transaction."""
        with self.transaction():
            kept = {
                row[0]
                for row in self._db.execute("SELECT id FROM documents WHERE source = ?", (file.source,))
            }
            self._db.execute(
                """INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(source) DO UPDATE SET
                   root = excluded.root, content = excluded.content, reader = excluded.reader,
                   size = excluded.size, reason = excluded.reason, warnings = excluded.warnings""",
                (
                    file.source,
                    file.root,
                    file.content,
                    file.reader,
                    file.size,
                    file.reason,
                    json.dumps(file.warnings),
                ),
            )
            for document in documents:
                values = (
                    document.title,
                    document.text,
                    json.dumps(dict(document.metadata), ensure_ascii=False),
                    json.dumps([[h.level, h.text, h.start] for h in document.headings], ensure_ascii=False),
                    json.dumps(document.pages),
                )
                if document.id in kept:  # the same text under the same source: its passages may stay
                    kept.discard(document.id)
                    self._db.execute(
                        """UPDATE documents SET
                           split = CASE WHEN title = ?1 AND headings = ?4 AND pages = ?5 THEN split END,
                           title = ?1, text = ?2, metadata = ?3, headings = ?4, pages = ?5 WHERE id = ?6""",
                        (*values, document.id),
                    )
                else:
                    self._db.execute(
                        "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                        (document.id, document.source, *values),
                    )
            self._db.executemany("DELETE FROM documents WHERE id = ?", [(id_,) for id_ in kept])

    def remove_files(self, sources: Collection[str]) -> None:
        """Forget files with all that came from them, in one transaction."""
        with self.transaction():
            self._db.executemany("DELETE FROM files WHERE source = ?", [(source,) for source in sources])

    def left_out(self) -> set[str]:
        """The sources that a person took out and has not added again."""
        return set(json.loads(self.meta(_LEFT_OUT) or "[]"))

    def leave_out(self, sources: Collection[str]) -> None:
        """Remember these as taken out by a person."""
        with self.transaction():
            self.set_meta(_LEFT_OUT, json.dumps(sorted(self.left_out().union(sources)), ensure_ascii=False))

    def take_back(self, sources: Collection[str]) -> None:
        """Forget that these were taken out."""
        with self.transaction():
            left = self.left_out().difference(sources)
            self.set_meta(_LEFT_OUT, json.dumps(sorted(left), ensure_ascii=False))

    def document(self, id_: str) -> Document:
        """The document of that id. Raises KeyError when there is none."""
        row = self._db.execute("SELECT * FROM documents WHERE id = ?", (id_,)).fetchone()
        if row is None:
            raise KeyError(id_)
        return _document(row)

    def documents(self, source: str | None = None) -> Iterator[Document]:
        """All documents in order of source, or those of one file."""
        where, values = ("WHERE source = ?", (source,)) if source is not None else ("", ())
        for row in self._db.execute(f"SELECT * FROM documents {where} ORDER BY source, rowid", values):
            yield _document(row)

    def listed(self, after: tuple[str, str] = ("", ""), most: int = -1) -> list[tuple[str, str, str]]:
        """Source, id and title of the documents in this order, those behind `after`, at most so many."""
        return self._db.execute(
            "SELECT source, id, title FROM documents WHERE (source, id) > (?, ?) ORDER BY source, id LIMIT ?",
            (*after, most),
        ).fetchall()

    # -- passages

    def unsplit(self, split: str) -> list[str]:
        """Ids of the documents whose passages were not made by this splitting."""
        rows = self._db.execute(
            "SELECT id FROM documents WHERE split IS NOT ? ORDER BY source, rowid", (split,)
        )
        return [row[0] for row in rows]

    def put_passages(self, document: str, split: str, passages: Iterable[Passage]) -> int:
        """Keep a document's passages in the place of those it had; returns how many, in one transaction."""
        rows = [
            (p.id, document, p.start, p.end, p.text, json.dumps(p.headings, ensure_ascii=False), p.page)
            for p in passages
        ]
        with self.transaction():
            self._db.execute("DELETE FROM passages WHERE document = ?", (document,))
            self._db.executemany("INSERT INTO passages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("UPDATE documents SET split = ? WHERE id = ?", (split, document))
        return len(rows)

    def passages(self, ids: Sequence[str] | None = None) -> list[Passage]:
        """The passages of these ids in this order, those that are gone left out; without ids, all of them."""
        if ids is None:
            return [_passage(row) for row in self._db.execute(f"SELECT {PASSAGE} FROM passages ORDER BY row")]
        found: dict[str, Passage] = {}
        for row in self._select_in(f"SELECT {PASSAGE} FROM passages WHERE id IN", ids):
            found[row[0]] = _passage(row)
        return [found[id_] for id_ in ids if id_ in found]

    def texts(self, after: int = 0, upto: int | None = None) -> Iterator[tuple[int, str, str]]:
        """(row, passage id, text with title and headings) of the passages after a row, in order."""
        rows = self._db.execute(
            """SELECT row, passages.id, documents.title, passages.headings, passages.text
               FROM passages JOIN documents ON documents.id = document
               WHERE row > ? AND row <= ? ORDER BY row""",
            (after, 2**62 if upto is None else upto),
        )
        for row, id_, title, headings, text in rows:
            yield row, id_, with_context(text, title, json.loads(headings))

    def passage_texts(self, passages: Iterable[Passage] | None = None) -> dict[str, str]:
        """Passage id -> text with title and headings, of these passages or of all.

        A passage whose document another process has removed since goes without its title.
        """
        its = {p.id: p for p in (self.passages() if passages is None else passages)}
        sources = self.sources({p.document_id for p in its.values()})
        return {
            id_: with_context(p.text, sources.get(p.document_id, ("", ""))[1], p.headings)
            for id_, p in its.items()
        }

    def sources(self, documents: Collection[str]) -> dict[str, tuple[str, str]]:
        """Document id -> (source, title)."""
        rows = self._select_in("SELECT id, source, title FROM documents WHERE id IN", list(documents))
        return {row[0]: (row[1], row[2]) for row in rows}

    def select(self, source: str | None, type_: str | None, since: str | None, until: str | None) -> set[str]:
        """Ids of the passages whose document has a source like this glob, this type, a date in this range."""
        rows = self._db.execute(
            """SELECT passages.id FROM passages JOIN documents ON documents.id = document
               WHERE (?1 IS NULL OR documents.source GLOB ?1)
                 AND (?2 IS NULL OR json_extract(metadata, '$.type') = ?2)
                 AND (?3 IS NULL OR json_extract(metadata, '$.date') >= ?3)
                 AND (?4 IS NULL OR substr(json_extract(metadata, '$.date'), 1, length(?4)) <= ?4)""",
            (source, type_, since, until),
        )
        return {row[0] for row in rows}

    # -- vectors

    def unembedded(self, encoder: str) -> list[int]:
        """Rows of the passages that have no vector of this encoder."""
        rows = self._db.execute(
            """SELECT row FROM passages WHERE NOT EXISTS
               (SELECT 1 FROM vectors WHERE encoder = ? AND passage = row) ORDER BY row""",
            (encoder,),
        )
        return [row[0] for row in rows]

    def texts_of(self, rows: Sequence[int]) -> list[tuple[int, str]]:
        """(row, text with title and headings) of these rows, those that are gone left out."""
        found = self._select_in(
            """SELECT row, documents.title, passages.headings, passages.text
               FROM passages JOIN documents ON documents.id = document WHERE row IN""",
            rows,
        )
        return [
            (row, with_context(text, title, json.loads(headings))) for row, title, headings, text in found
        ]

    def put_vectors(self, encoder: str, rows: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Keep vectors (n, dimension) of passages that are still there, in one transaction."""
        data = [(encoder, v.astype("<f4").tobytes(), row) for row, v in zip(rows, vectors, strict=True)]
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO vectors SELECT ?1, row, ?2 FROM passages WHERE row = ?3", data
            )
            self._count_write()

    def embedded(self, encoder: str) -> set[str]:
        """Ids of the passages that have a vector of this encoder."""
        rows = self._db.execute(
            "SELECT id FROM vectors JOIN passages ON row = passage WHERE encoder = ?", (encoder,)
        )
        return {row[0] for row in rows}

    def dimension(self, encoder: str) -> int | None:
        """The length of this encoder's vectors; None where there are none."""
        row = self._db.execute(
            "SELECT length(vector) FROM vectors WHERE encoder = ? LIMIT 1", (encoder,)
        ).fetchone()
        return None if row is None else int(row[0]) // 4

    def all_vectors(
        self, encoder: str, batch: int = 20_000
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and vectors (n, dimension) of all passages in batches, in one scan of the file."""
        found = self._db.execute(
            "SELECT id, vector FROM vectors CROSS JOIN passages ON row = passage WHERE encoder = ?",
            (encoder,),
        )
        while rows := found.fetchmany(batch):
            yield _matrix(rows)

    def vectors(
        self, encoder: str, ids: Sequence[str], batch: int = 20_000
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and vectors (n, dimension) of these passages in batches, those without one left out."""
        statement = "SELECT id, vector FROM passages CROSS JOIN vectors ON row = passage WHERE id IN"
        for i in range(0, len(ids), batch):
            found = list(self._select_in(statement, ids[i : i + batch], " AND encoder = ?", encoder))
            if found:
                yield _matrix(found)

    def use_encoder(self, encoder: str, keep: Collection[str] = ()) -> None:
        """Switch to an encoder's vectors and drop all others but those to `keep`, in one transaction.

        Raises WorkspaceError when a passage has no vector of it.
        """
        with self.transaction():
            if missing := len(self.unembedded(encoder)):
                raise WorkspaceError(
                    f"{missing} passages have no vector of encoder {encoder} yet; build again"
                )
            self.set_meta("encoder", encoder)
            kept = json.dumps([encoder, *keep])
            self._db.execute(
                "DELETE FROM vectors WHERE encoder NOT IN (SELECT value FROM json_each(?))", (kept,)
            )
            self._count_write()

    def _count_write(self) -> None:
        self.set_meta(_WRITES, str(int(self.meta(_WRITES) or 0) + 1))

    # -- answers that were given, and what was said of them; their JSON is the affair of `feedback`

    def put_answers(self, answers: Iterable[tuple[str, str, str]], most: int) -> None:
        """Keep answers (id, time, JSON); of all that nobody has said anything of, the `most` newest stay."""
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, NULL, NULL)", answers)
            self._db.execute(
                """DELETE FROM answers WHERE id IN (SELECT id FROM answers
                   WHERE said IS NULL AND review IS NULL ORDER BY time DESC, id LIMIT -1 OFFSET ?)""",
                (most,),
            )

    def put_said(self, id_: str, said: str, given: tuple[str, str] | None = None) -> bool:
        """Keep what was said of an answer, and the answer itself (time, JSON) where one is given.

        False: there is no such answer.
        """
        with self.transaction():
            if given is not None:
                self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, NULL, NULL)", (id_, *given))
            done = self._db.execute("UPDATE answers SET said = ? WHERE id = ?", (said, id_))
        return done.rowcount > 0

    def put_reviews(self, reviews: Mapping[str, str]) -> None:
        """Keep what was decided about answers (id -> JSON), in one transaction; those that are gone, not."""
        with self.transaction():
            self._db.executemany(
                "UPDATE answers SET review = ? WHERE id = ?",
                [(review, id_) for id_, review in reviews.items()],
            )

    def answers(self) -> Iterator[tuple[str, str | None, str | None]]:
        """(given, said, review) of the answers that are kept, as JSON, the newest first."""
        yield from self._db.execute(
            "SELECT given, said, review FROM answers ORDER BY time DESC, id"
        ).fetchall()

    # -- for those who follow

    def version(self) -> tuple[int, int]:
        """Changes whenever the library does, through this connection or another; cheap to ask.

        Also when an answer is kept: `vectors_mark` says whether passages or vectors changed.
        """
        return self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes

    def mark(self) -> Mark:
        """Where the log of changes stands now."""
        added, removed = self._db.execute(
            """SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'passages'), 0),
                      coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'removed'), 0)"""
        ).fetchone()
        return Mark(self.id, added, removed)

    def vectors_mark(self) -> tuple[Mark, str | None, str | None]:
        """Changes whenever passages, vectors or the encoder in use do, and with nothing else."""
        return self.mark(), self.meta("encoder"), self.meta(_WRITES)

    def ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Row -> passage id, for the rows that are still there."""
        return dict(self._select_in("SELECT row, id FROM passages WHERE row IN", rows))

    def rows(self, ids: Collection[str]) -> dict[str, int]:
        """Passage id -> row, for the passages that are still there."""
        return dict(self._select_in("SELECT id, row FROM passages WHERE id IN", list(ids)))

    def removed(self, after: int) -> list[tuple[int, str]]:
        """(row, id) of the passages removed after a place in the log; a row never comes back, an id may."""
        rows = self._db.execute("SELECT row, id FROM removed WHERE seq > ? ORDER BY seq", (after,))
        return rows.fetchall()

    def _select_in(
        self, statement: str, values: Sequence[object], and_: str = "", *more: object
    ) -> Iterator[tuple[Any, ...]]:
        for i in range(0, len(values), 500):  # SQLite bounds the number of variables
            part = values[i : i + 500]
            marks = ",".join("?" * len(part))
            # all at once: a cursor left half read would want the database open when it is let go
            yield from self._db.execute(f"{statement} ({marks}){and_}", (*part, *more)).fetchall()


def _document(row: tuple[Any, ...]) -> Document:
    id_, source, title, text, metadata, headings, pages, _ = row
    return Document(
        id_,
        source,
        title,
        text,
        json.loads(metadata),
        tuple(Heading(*h) for h in json.loads(headings)),
        tuple(json.loads(pages)),
    )


def _matrix(rows: Sequence[tuple[str, bytes]]) -> tuple[list[str], NDArray[np.float32]]:
    vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
    return [row[0] for row in rows], vectors.reshape(len(rows), -1)


def _passage(row: tuple[Any, ...]) -> Passage:
    id_, document, text, start, end, headings, page = row
    return Passage(id_, document, text, start, end, tuple(json.loads(headings)), page)
