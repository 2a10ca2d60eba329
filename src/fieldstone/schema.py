"""The tables of the library, and how a library of an earlier version gets them."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator

ANSWERS = """
CREATE TABLE answers (
    id TEXT PRIMARY KEY,
    time TEXT NOT NULL,         -- when it was given: ISO, UTC
    given TEXT NOT NULL,        -- JSON: what was asked and answered
    said TEXT,                  -- JSON: what somebody said of it
    review TEXT                 -- JSON: what a reviewer decided
);
CREATE INDEX answers_time ON answers(time) WHERE said IS NULL AND review IS NULL;
"""

# rows by number: without one a row of more than 1,000 bytes fills a page of 4,096 by itself
VECTORS = """
CREATE TABLE vectors (
    encoder TEXT NOT NULL,      -- fingerprint of the encoder that made it
    passage INTEGER NOT NULL REFERENCES passages(row) ON DELETE CASCADE,
    vector BLOB NOT NULL,       -- float32, little endian
    UNIQUE (encoder, passage)
);
CREATE INDEX vectors_passage ON vectors(passage);
"""

VERSION = 3
MIGRATIONS = {
    1: ANSWERS,
    2: f"""
ALTER TABLE vectors RENAME TO earlier_vectors;
DROP INDEX vectors_passage;
{VECTORS}
INSERT INTO vectors SELECT encoder, passage, vector FROM earlier_vectors ORDER BY encoder, passage;
DROP TABLE earlier_vectors;
""",
}
"""Schema -> what makes the next one of it; nothing that was there is lost."""

SCHEMA = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE roots (label TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE files (
    source TEXT PRIMARY KEY,
    root TEXT NOT NULL REFERENCES roots(label),
    content TEXT NOT NULL,      -- fingerprint of the bytes
    reader TEXT NOT NULL,       -- fingerprint of the readers that read it
    size INTEGER NOT NULL,
    reason TEXT,                -- why it gives no text
    warnings TEXT NOT NULL      -- JSON list
);
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL REFERENCES files(source) ON DELETE CASCADE,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,     -- JSON object
    headings TEXT NOT NULL,     -- JSON list of [level, text, start]
    pages TEXT NOT NULL,        -- JSON list of offsets
    split TEXT                  -- fingerprint of the splitting that made its passages
);
CREATE INDEX documents_source ON documents(source);
CREATE TABLE passages (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    text TEXT NOT NULL,
    headings TEXT NOT NULL,     -- JSON list
    page INTEGER
);
CREATE INDEX passages_document ON passages(document);
CREATE TABLE removed (seq INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER NOT NULL, id TEXT NOT NULL);
CREATE TRIGGER passage_removed AFTER DELETE ON passages BEGIN
    INSERT INTO removed (row, id) VALUES (old.row, old.id);
END;
"""
    + VECTORS
    + ANSWERS
)


def version_of(db: sqlite3.Connection) -> int:
    """0 for a file without tables."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def create(db: sqlite3.Connection) -> None:
    """Make the tables, unless another process was faster. Within a transaction."""
    if version_of(db):
        return
    for statement in _statements(SCHEMA):
        db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('library', ?)", (uuid.uuid4().hex,))
    db.execute(f"PRAGMA user_version = {VERSION}")


def migrate(db: sqlite3.Connection) -> None:
    """Bring the tables up to date; another process may have done it. Within a transaction."""
    while script := MIGRATIONS.get(version := version_of(db)):
        for statement in _statements(script):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {version + 1}")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
