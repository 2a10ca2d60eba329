"""OpenDocument texts, and by the same elements its sheets and slides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fieldstone.errors import ReadError
from fieldstone.read.archives import ENCRYPTED, attribute, iso_day, local, member, open_zip, xml
from fieldstone.read.draft import Draft, one_line
from fieldstone.read.tables import table_text
from fieldstone.records import Document

_SKIPPED = frozenset(["tracked-changes", "annotation", "note-citation", "forms", "sequence-decls", "notes"])
_MAX_REPEAT = 50


def read_odt(data: bytes, source: str) -> list[Document]:
    """One document a file; a sheet or a slide is a page."""
    archive = open_zip(data, source)
    manifest = xml(member(archive, "META-INF/manifest.xml"))
    if manifest is not None and next(manifest.iter("{*}encryption-data"), None) is not None:
        raise ReadError(source, ENCRYPTED)
    root = xml(member(archive, "content.xml"))
    if root is None:
        raise ReadError(source, "damaged: its part content.xml is missing or cannot be read")
    draft = Draft()
    for body in root.iterfind("{*}body"):
        _write(draft, body, depth=0)
    meta = xml(member(archive, "meta.xml"))
    about = {} if meta is None else {local(node): node.text or "" for node in meta.iter()}
    day = iso_day(about.get("date", "") or about.get("creation-date", ""))
    return [draft.document(source, about.get("title", ""), {"date": day} if day else {})]


def _write(draft: Draft, node: Any, depth: int) -> None:
    """Write the blocks below `node`; `depth` counts the lists around it."""
    for child in node:
        name = local(child)
        if name == "h":
            level = attribute(child, "outline-level")
            draft.heading(min(int(level), 9) if level.isdecimal() and level != "0" else 1, _text(child))
        elif name == "p":
            mark = "  " * min(depth - 1, 8) + "- " if depth else ""
            text = _text(child).strip()
            draft.add(mark + text if text else "", gap="\n" if depth else "\n\n")
            for box in child.iter("{*}text-box"):
                _write(draft, box, depth=0)
        elif name == "table":
            if local(node) == "spreadsheet":
                draft.page()
                draft.heading(1, attribute(child, "name"))
            draft.add(table_text(list(_rows(child))))
        elif name == "page":
            draft.page()
            _write(draft, child, depth)
        elif name not in _SKIPPED:
            _write(draft, child, depth + (name == "list"))


def _text(node: Any) -> str:
    """The text of a paragraph; a footnote stands in brackets where it is called."""
    pieces = [node.text or ""]
    for child in node:
        name = local(child)
        if name == "s":
            pieces.append(" " * min(int(attribute(child, "c") or 1), 80))
        elif name == "tab":
            pieces.append(" ")
        elif name == "line-break":
            pieces.append("\n")
        elif name == "note":
            pieces.append(f" [{' '.join(map(_text, child.iter('{*}p')))}]")
        elif name and name not in _SKIPPED and name != "text-box":
            pieces.append(_text(child))
        pieces.append(child.tail or "")
    return "".join(pieces)


def _rows(table: Any) -> Iterator[list[str]]:
    """The rows of a table; empty cells that repeat to the edge of a sheet are left out."""
    for row in table.iter("{*}table-row"):
        cells: list[str] = []
        for cell in row.iterchildren("{*}table-cell", "{*}covered-table-cell"):
            text = one_line(" ".join(map(_text, cell.iter("{*}p", "{*}h"))))
            repeat = attribute(cell, "number-columns-repeated")
            cells += [text] * (min(int(repeat), _MAX_REPEAT) if repeat.isdecimal() else 1)
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield cells
