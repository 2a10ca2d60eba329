"""Tables as lines of text, in every format alike: each row keeps the header, so it can be read alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from fieldstone.read.draft import one_line

Row = Sequence[str]

_SAMPLE = 50  # rows that are looked at to tell a header
_NUMBER = re.compile(r"^[-+(]?[\s$€£¥]*\d[\d.,:/\s%-]*\)?$")


def table_lines(rows: Iterable[Row], header: Row | None = None) -> Iterator[str]:
    """One line a row: `Name: Ann; Age: 30`, or `Ann; 30` without a header. Empty cells are left out.

    Rows may be ragged: cells past the end of the header stand without a name.
    """
    names = [one_line(name) for name in header or ()]
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            if value := one_line(cell):
                name = names[column] if column < len(names) else ""
                cells.append(f"{name.rstrip(':')}: {value}" if name and name != value else value)
        if cells:
            yield re.sub(r":; ", ": ", "; ".join(cells))  # a row of a form: `Name:` and what stands beside it


def table_text(rows: Sequence[Row], header: Row | None = None) -> str:
    """The table as text; without a given header its first row is the header if it looks like one.

    Rows of a single cell above it are lines of their own.
    """
    above = next((index for index, row in enumerate(rows) if _filled(row) > 1), 0) if header is None else 0
    titles, rows = rows[:above], rows[above:]
    if header is None and looks_like_header(rows):
        header, rows = rows[0], rows[1:]
    return "\n".join([*table_lines(titles), *table_lines(rows, header)])


def _filled(row: Row) -> int:
    return sum(bool(cell.strip()) for cell in row)


def looks_like_header(rows: Sequence[Row]) -> bool:
    """Whether the first row names the columns: at least two distinct, short names and no numbers.

    The corner may be empty, and so may columns that are empty below as well.
    """
    if len(rows) < 2:
        return False
    names = [one_line(cell) for cell in rows[0]]
    given = [name for name in names if name]
    if len(given) < 2 or len(set(given)) < len(given) or any(len(name) > 80 for name in given):
        return False
    if any(name.endswith(":") for name in given):
        return False
    if any(_NUMBER.match(name) and not _is_year(name) for name in given) or _NUMBER.match(given[0]):
        return False
    unnamed = [column for column, name in enumerate(names) if not name and column > 0]
    below = rows[1:_SAMPLE]
    named = not any(column < len(row) and row[column].strip() for row in below for column in unnamed)
    return named and any(map(_filled, below))


def _is_year(name: str) -> bool:
    return bool(re.fullmatch(r"(1[89]|20)\d\d", name))
