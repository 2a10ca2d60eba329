"""Word documents: the body in its order, with headings, lists, tables, notes and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fieldstone.errors import ReadError
from fieldstone.read.archives import attribute, core_date, local, member, open_zip, relations, xml
from fieldstone.read.draft import Draft, one_line
from fieldstone.read.tables import table_text
from fieldstone.records import Document

# Deleted and moved text, properties, and the copy of each text box for programs of before 2010.
_SKIPPED = frozenset(
    ["del", "moveFrom", "Fallback", "pPr", "rPr", "sectPr", "tblPr", "txbxContent", "instrText"]
)
_BREAKS = {"tab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": " "}


def read_docx(data: bytes, source: str) -> list[Document]:
    """One document a file; Word keeps no page numbers, so it has no pages."""
    archive = open_zip(data, source)
    main = next((part for kind, part in relations(archive, "").values() if kind == "officeDocument"), "")
    main = main if main in archive.namelist() else "word/document.xml"
    body = xml(member(archive, main))
    if body is None:
        raise ReadError(source, f"damaged: its part {main} is missing or cannot be read")
    parts = dict(relations(archive, main).values())
    levels = _heading_levels(xml(member(archive, parts.get("styles", "word/styles.xml"))))
    draft = Draft()
    title = ""
    listed = False
    for block in _blocks(body):
        if local(block) == "tbl":
            draft.add(table_text(list(_rows(block))))
            listed = False
            continue
        text = _text(block)
        style, item = _style(block)
        level = levels.get(style, _outline(block))
        if level == 0:
            title = title or one_line(text)
        if level is not None and text.strip():
            draft.heading(max(level, 1), text)
        elif text.strip():
            mark = "  " * min(item, 8) + "- " if item is not None else ""
            draft.add(mark + text.strip(), gap="\n" if mark and listed else "\n\n")
        listed = item is not None and level is None
    for kind, name in (("footnotes", "Note"), ("endnotes", "Note"), ("comments", "Comment")):
        for note in _notes(xml(member(archive, parts.get(kind, "")))):
            author = attribute(note, "author")
            draft.add(f"{name}{' by ' + author if author else ''}: " + one_line(_all_text(note)))
    return [draft.document(source, title, core_date(archive))]


def _blocks(node: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, through content controls; text boxes follow their paragraph."""
    for child in node:
        name = local(child)
        if name == "tbl":
            yield child
        elif name == "p":
            yield child
            for box in child.iter("{*}txbxContent"):
                if not any(local(above) == "Fallback" for above in box.iterancestors()):
                    yield from _blocks(box)
        elif name not in _SKIPPED:
            yield from _blocks(child)


def _text(node: Any) -> str:
    """The text of a paragraph, without that of its text boxes."""
    pieces = []
    for child in node:
        name = local(child)
        if name == "t":
            pieces.append(child.text or "")
        elif name in _BREAKS:
            pieces.append(_BREAKS[name])
        elif name not in _SKIPPED:
            pieces.append(_text(child))
    return "".join(pieces)


def _all_text(node: Any) -> str:
    return "\n".join(
        _text(block) if local(block) == "p" else table_text(list(_rows(block))) for block in _blocks(node)
    )


def _rows(table: Any) -> Iterator[list[str]]:
    """The cells of each row: one that spans columns stands in the first, one that spans rows in each."""
    above: dict[int, str] = {}
    for row in table.iterchildren("{*}tr", "{*}sdt"):
        row = row if local(row) == "tr" else next(row.iter("{*}tr"), row)
        cells: list[str] = []
        for cell in row.iterchildren("{*}tc", "{*}sdt"):
            cell = cell if local(cell) == "tc" else next(cell.iter("{*}tc"), cell)
            merge = next(cell.iterfind("{*}tcPr/{*}vMerge"), None)
            span = next(cell.iterfind("{*}tcPr/{*}gridSpan"), None)
            column = len(cells)
            text = one_line(_all_text(cell))
            if merge is None:
                above.pop(column, None)
            elif attribute(merge, "val") == "restart":
                above[column] = text
            else:
                text = text or above.get(column, "")
            width = attribute(span, "val") if span is not None else ""
            cells += [text] + [""] * (min(int(width), 100) - 1 if width.isdecimal() else 0)
        if cells:
            yield cells


def _style(paragraph: Any) -> tuple[str, int | None]:
    """The id of the paragraph's style, and how deep in a list it stands, if it does."""
    style = next(paragraph.iterfind("{*}pPr/{*}pStyle"), None)
    name = attribute(style, "val") if style is not None else ""
    number = next(paragraph.iterfind("{*}pPr/{*}numPr/{*}numId"), None)
    if number is not None and attribute(number, "val") != "0":
        depth = next(paragraph.iterfind("{*}pPr/{*}numPr/{*}ilvl"), None)
        value = attribute(depth, "val") if depth is not None else ""
        return name, int(value) if value.isdecimal() else 0
    return name, 0 if name.startswith(("ListBullet", "ListNumber")) else None


def _outline(paragraph: Any) -> int | None:
    """The outline level (from 1) that the paragraph itself sets."""
    node = next(paragraph.iterfind("{*}pPr/{*}outlineLvl"), None)
    value = attribute(node, "val") if node is not None else ""
    return int(value) + 1 if value.isdecimal() and int(value) < 9 else None


def _heading_levels(styles: Any) -> dict[str, int]:
    """The id of each heading style and its level; 0 is the title. Styles inherit from one another."""
    known: dict[str, tuple[int | None, str]] = {}
    for style in () if styles is None else styles.iter("{*}style"):
        name = next((attribute(node, "val") for node in style.iterfind("{*}name")), "").lower()
        based = next((attribute(node, "val") for node in style.iterfind("{*}basedOn")), "")
        heading = re.fullmatch(r"heading ([1-9])", name)
        level = int(heading[1]) if heading else 0 if name == "title" else _outline(style)
        known[attribute(style, "styleId")] = (level, based)
    levels = {}
    for identity in known:
        level, based = known[identity]
        for _ in range(10):  # a chain may be a loop
            if level is not None or based not in known:
                break
            level, based = known[based]
        if level is not None:
            levels[identity] = level
    return levels


def _notes(root: Any) -> Iterator[Any]:
    """The footnotes, endnotes or comments of a part, without the lines that Word draws above them."""
    for note in () if root is None else root:
        if attribute(note, "type") not in ("separator", "continuationSeparator") and _all_text(note).strip():
            yield note
