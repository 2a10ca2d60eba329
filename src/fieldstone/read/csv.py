"""Comma-, semicolon- and tab-separated values: a line a row, with the header in each."""

from __future__ import annotations

import csv
import io
from collections import Counter

from fieldstone.read.draft import Draft
from fieldstone.read.encodings import decode
from fieldstone.read.tables import table_text
from fieldstone.records import Document


def read_csv(data: bytes, source: str) -> list[Document]:
    """One document a file; the delimiter and the header are told from the rows."""
    csv.field_size_limit(2**24)
    text = decode(data)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    draft = Draft()
    draft.add(table_text([row for row in rows if any(cell.strip() for cell in row)]))
    return [draft.document(source)]


def _delimiter(text: str) -> str:
    """The delimiter that cuts the most of the first lines into the same number of cells, two at least."""
    sample = text[:20_000].rpartition("\n")[0] or text[:20_000]

    def fit(delimiter: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        width, lines = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        return (lines / len(rows), width) if width > 1 else (0.0, 0)

    return max(",;\t|", key=fit)
