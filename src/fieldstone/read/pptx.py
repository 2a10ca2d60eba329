"""PowerPoint presentations: a page a slide, its title a heading; tables, charts, diagrams and notes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

from fieldstone.errors import ReadError
from fieldstone.read.archives import attribute, core_date, local, member, open_zip, relations, xml
from fieldstone.read.draft import Draft, one_line
from fieldstone.read.file import warn
from fieldstone.read.tables import table_text
from fieldstone.records import Document

_TITLES = ("title", "ctrTitle")
_FURNITURE = ("dt", "ftr", "sldNum", "hdr", "sldImg")  # date, footer, number: the same on each slide


def read_pptx(data: bytes, source: str) -> list[Document]:
    """One document a presentation, in the order of its slides."""
    archive = open_zip(data, source)
    main = next((part for kind, part in relations(archive, "").values() if kind == "officeDocument"), "")
    main = main if main in archive.namelist() else "ppt/presentation.xml"
    root = xml(member(archive, main))
    if root is None:
        raise ReadError(source, f"damaged: its part {main} is missing or cannot be read")
    targets = relations(archive, main)
    draft = Draft()
    for number, entry in enumerate(root.iter("{*}sldId"), 1):
        part = targets.get(_relation(entry, "id"), ("", ""))[1]
        slide = xml(member(archive, part))
        draft.page()
        if slide is None:
            warn(f"slide {number} is missing or damaged")
            continue
        _write_slide(draft, slide, archive, part)
    return [draft.document(source, metadata=core_date(archive))]


def _relation(node: Any, name: str) -> str:
    """The id of a relation: the attribute `r:name`, which may stand beside a plain `name`."""
    return next(
        (str(value) for key, value in node.attrib.items() if key.endswith(f"relationships}}{name}")), ""
    )


def _write_slide(draft: Draft, slide: Any, archive: zipfile.ZipFile, part: str) -> None:
    shapes = list(_shapes(slide))
    for shape in shapes:
        if _role(shape) in _TITLES:
            draft.heading(1, _lines(shape, bullets=False))
    targets = relations(archive, part)
    for shape in shapes:
        role = _role(shape)
        if local(shape) == "graphicFrame":
            _write_frame(draft, shape, archive, targets)
        elif role not in _TITLES and role not in _FURNITURE:
            draft.add(_lines(shape, bullets=role in ("body", "obj", "")))
    for kind, target in targets.values():
        if kind == "notesSlide" and (notes := xml(member(archive, target))) is not None:
            said = "\n".join(_lines(shape, False) for shape in _shapes(notes) if _role(shape) == "body")
            draft.add(f"Notes: {said}" if said.strip() else "")


def _shapes(node: Any) -> Iterator[Any]:
    """Shapes and frames in order, through groups; not the copies for older programs."""
    for child in node:
        name = local(child)
        if name in ("sp", "graphicFrame"):
            yield child
        elif name in ("cSld", "spTree", "grpSp", "AlternateContent", "Choice"):
            yield from _shapes(child)


def _role(shape: Any) -> str | None:
    """What the shape is the placeholder of; empty for the plain content, None for no placeholder."""
    holder = next(shape.iterfind("{*}nvSpPr/{*}nvPr/{*}ph"), None)
    return attribute(holder, "type") if holder is not None else None


def _lines(shape: Any, bullets: bool) -> str:
    """A line a paragraph; in a body of several paragraphs each is an item."""
    found = []
    for paragraph in shape.iterfind("{*}txBody/{*}p"):
        depth = next((attribute(node, "lvl") for node in paragraph.iterfind("{*}pPr")), "")
        if text := _paragraph(paragraph):
            found.append((min(int(depth), 8) if depth.isdecimal() else 0, text))
    items = bullets and len(found) > 1
    return "\n".join(f"{'  ' * depth}- {text}" if items else text for depth, text in found)


def _paragraph(paragraph: Any) -> str:
    pieces = []
    for node in paragraph.iter("{*}t", "{*}br"):
        pieces.append(" " if local(node) == "br" else node.text or "")
    return one_line("".join(pieces))


def _write_frame(
    draft: Draft, frame: Any, archive: zipfile.ZipFile, targets: dict[str, tuple[str, str]]
) -> None:
    """A table, a chart or a diagram."""
    for table in frame.iter("{*}tbl"):
        rows = [
            [" ".join(map(_paragraph, cell.iter("{*}p"))) for cell in row.iterchildren("{*}tc")]
            for row in table.iterchildren("{*}tr")
        ]
        draft.add(table_text(rows))
    for node in frame.iter("{*}chart"):
        chart = xml(member(archive, targets.get(_relation(node, "id"), ("", ""))[1]))
        draft.add("" if chart is None else _chart_text(chart))
    for node in frame.iter("{*}relIds"):
        diagram = xml(member(archive, targets.get(_relation(node, "dm"), ("", ""))[1]))
        if diagram is not None:
            draft.add("\n".join(filter(None, map(_paragraph, diagram.iter("{*}p")))))


def _chart_text(chart: Any) -> str:
    """The chart as a table: a row a category, a column a series."""
    paragraphs = [node for title in chart.iterfind("{*}chart/{*}title") for node in title.iter("{*}p")]
    title = one_line(" ".join(map(_paragraph, paragraphs)))
    names: list[str] = []
    columns: list[dict[str, str]] = []
    categories: dict[str, str] = {}
    for series in chart.iter("{*}ser"):
        names.append(next(iter(_points(series, "tx").values()), f"Series {len(names) + 1}"))
        categories |= _points(series, "cat") or _points(series, "xVal")
        columns.append(_points(series, "val") or _points(series, "yVal"))
    keys = list(dict.fromkeys([*categories, *(key for column in columns for key in column)]))
    rows = [[categories.get(key, ""), *(column.get(key, "") for column in columns)] for key in keys]
    text = table_text(rows, ["", *names])
    return f"{title}\n{text}" if title else text


def _points(series: Any, name: str) -> dict[str, str]:
    """The cached values of one axis, by their index."""
    points = {}
    for axis in series.iterfind("{*}" + name):
        for point in axis.iter("{*}pt"):
            points[attribute(point, "idx")] = "".join(value.text or "" for value in point.iter("{*}v"))
        if not points:
            points = {str(index): node.text or "" for index, node in enumerate(axis.iter("{*}v"))}
    return points
