"""Excel workbooks: a page and a heading a sheet, a line a row with the header in each."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

import openpyxl

from fieldstone.read.archives import open_zip
from fieldstone.read.draft import Draft, title_from
from fieldstone.read.file import warn
from fieldstone.read.tables import looks_like_header, table_lines
from fieldstone.records import Document

_MAX_ROWS = 100_000  # a sheet: about 20 s to read
_MAX_COLUMNS = 1_000


def read_xlsx(data: bytes, source: str) -> list[Document]:
    """One document a workbook; of formulas the value that Excel last saw, of dates the ISO form."""
    open_zip(data, source)  # holds the limits on what it unpacks to
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    draft = Draft()
    try:
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what it says of its size may be wrong
            draft.page()
            lines = list(_sheet_lines(_rows(sheet)))
            if lines:
                draft.heading(1, sheet.title)
                draft.add("\n".join(lines))
        about = book.properties
        day = next((day for day in (about.modified, about.created) if isinstance(day, datetime)), None)
    finally:
        book.close()
    metadata = {"date": day.date().isoformat()} if day else {}
    return [draft.document(source, about.title or title_from(source), metadata)]


def _rows(sheet: Any) -> Iterator[list[str]]:
    """The rows as text, without empty cells at their end."""
    for number, values in enumerate(sheet.iter_rows(values_only=True, max_col=_MAX_COLUMNS)):
        if number >= _MAX_ROWS:
            warn(f"sheet {sheet.title!r} is cut off after {_MAX_ROWS:,} rows")
            return
        row = [_cell(value) for value in values]
        while row and not row[-1]:
            row.pop()
        yield row


def _sheet_lines(rows: Iterable[list[str]]) -> Iterator[str]:
    """An empty row ends a table; the next one may have a header of its own."""
    header: list[str] | None = None
    table: list[list[str]] = []
    for row in [*rows, []]:
        if row:
            table.append(row)
            continue
        above = next((index for index, cells in enumerate(table) if len(list(filter(None, cells))) > 1), 0)
        yield from table_lines(table[:above])  # lines above the table
        table = table[above:]
        if looks_like_header(table):
            header = table.pop(0)
        yield from table_lines(table, header)
        table = []


def _cell(value: object) -> str:
    """One value as text."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.15g}"
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case datetime():
            return value.isoformat(" ", "minutes" if not value.second else "seconds")
        case date() | time() | timedelta():
            return str(value)
    return str(value)
