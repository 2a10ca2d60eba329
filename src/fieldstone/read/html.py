"""HTML to text that reads well: paragraphs, lists, headings, tables; scripts and navigation left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from itertools import zip_longest
from typing import Any

from lxml import etree

from fieldstone.read.archives import iso_day
from fieldstone.read.draft import Draft, one_line
from fieldstone.read.encodings import decode
from fieldstone.read.file import warn
from fieldstone.read.tables import table_lines, table_text
from fieldstone.records import Document

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(_HEADINGS) | frozenset(  # each starts a paragraph; all others, unknown ones too, do not
    re.split(
        r"\s+",
        """address article aside blockquote body caption center dd details dialog div dl dt fieldset
        figcaption figure footer form header hgroup hr html legend li main menu nav ol p pre section summary
        table tbody td tfoot th thead tr ul""",
    )
)
_SILENT = frozenset(
    re.split(
        r"\s+",
        """annotation annotation-xml audio button canvas head iframe ix:header noscript object script select
        style svg template textarea video""",
    )
)
_AROUND = frozenset(["nav", "aside", "footer"])  # and a header that is not an article's own
_AROUND_ROLES = frozenset(["navigation", "banner", "contentinfo", "search", "complementary"])
_AROUND_CLASSES = frozenset(  # of MediaWiki, Sphinx, Docusaurus and other common makers of pages
    re.split(
        r"\s+",
        """breadcrumb breadcrumbs catlinks mw-portlet navbox noprint printfooter sidebar skip-link skiplink
        table-of-contents toc vector-dropdown""",
    )
)
_MARKS = frozenset(["mw-editsection", "mw-jump-link", "headerlink"])  # "[edit]" and "¶" beside a heading
_NOT_IN_CELLS = frozenset(["table", "pre", *_HEADINGS])
_IN_LINE = re.compile(r"display\s*:\s*inline\s*(?:;|$)", re.I)
_UNSEEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_CHARSET = re.compile(
    rb"""<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,200}?encoding)\s*=\s*["']?\s*([\w:.-]+)""", re.I
)
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_MAX_SPAN = 100


def read_html(data: bytes, source: str) -> list[Document]:
    """One document a page."""
    charset = _CHARSET.search(data[:4096])
    draft = Draft()
    title, day = add_html(draft, decode(data, charset[1].decode("ascii") if charset else ""))
    first = next((heading.text for heading in draft.headings if heading.level == 1), "")
    return [draft.document(source, first or title, {"date": day} if day else {})]


def add_html(draft: Draft, page: str) -> tuple[str, str]:
    """Write the page to the draft; returns its title and its day, empty where it names none."""
    parser = etree.HTMLParser(no_network=True, remove_comments=True, remove_pis=True, huge_tree=True)
    page = _DECLARATION.sub("", page, count=1)
    root = etree.fromstring(page, parser) if page.strip() else None
    if root is None:
        return "", ""
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        # libxml2 gives up past 2,048 levels and drops the rest; no person wrote such a page
        warn("its elements stand in one another too deep: read without headings and tables")
        page = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^<>]*>", " ", page)
        draft.add(one_line(unescape(page)))
        return "", ""
    if not _write(draft, root, around=False):
        _write(draft, root, around=True)  # a page that is all navigation: better that than nothing
    title = root.findtext(".//title") or ""
    days = root.xpath(
        "//meta[@property='article:modified_time' or @property='article:published_time']/@content"
    )
    return one_line(title), next(filter(None, map(iso_day, days)), "")


class _Writer:
    """Writes elements to a draft as they open and close: the paragraph at hand, the lists it stands in."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.wrote = False
        self.pieces: list[str] = []  # of the paragraph at hand
        self.lists: list[int] = []  # the open lists: the number of the next item, 0 where they have none
        self.mark = ""  # of the list item that has begun
        self.after_item = False

    def say(self, text: str | None) -> None:
        """More of the paragraph, a space for each run of white space."""
        if text:
            self.pieces.append(re.sub(r"\s+", " ", text))

    def flush(self) -> None:
        """End the paragraph; an item stands right below the one before."""
        text = _paragraph(self.pieces)
        self.pieces.clear()
        if text:
            self.add(self.mark + text, gap="\n" if self.after_item and self.mark else "\n\n")
            self.after_item = bool(self.lists)
            self.mark = ""

    def add(self, block: str, gap: str = "\n\n") -> None:
        """A block of its own."""
        self.draft.add(block, gap)
        self.wrote, self.after_item = True, False

    def open(self, node: Any) -> None:
        """An element starts."""
        if node.tag == "br":
            self.pieces.append("\n")
            return
        if _is_block(node):
            self.flush()
        if node.tag in ("ul", "ol"):
            self.lists.append(_number(node.get("start"), 1) if node.tag == "ol" else 0)
        elif node.tag == "li":
            number = self.lists[-1] if self.lists else 0
            self.mark = "  " * min(max(len(self.lists) - 1, 0), 8) + (f"{number}. " if number else "- ")
            if number:
                self.lists[-1] += 1
        self.say(node.text)

    def close(self, node: Any) -> None:
        """An element ends."""
        if node.tag in _HEADINGS:
            if words := _paragraph(self.pieces):
                self.draft.heading(_HEADINGS[node.tag], words)
                self.wrote, self.after_item, self.mark = True, False, ""
            self.pieces.clear()
        elif _is_block(node):
            self.flush()
        if node.tag in ("ul", "ol") and self.lists:
            self.lists.pop()
            self.after_item = self.after_item and bool(self.lists)


def _write(draft: Draft, root: Any, around: bool) -> bool:
    """Write what stands in the page, with or without what stands around it; whether there was anything."""
    writer = _Writer(draft)
    whole = None  # the element that was dealt with when it started
    walk = etree.iterwalk(root, events=("start", "end"))
    for event, node in walk:
        if event == "start":
            whole = node
            if _is_left_out(node, around):
                if _is_block(node):
                    writer.flush()
            elif node.tag == "pre":
                writer.flush()
                writer.add(_verbatim(node))
            elif node.tag == "table" and _is_data(node):
                writer.flush()
                writer.add(_table_text(node))
            else:
                whole = None
                writer.open(node)
            if whole is not None:
                walk.skip_subtree()
        else:
            if node is not whole:
                writer.close(node)
            whole = None
            writer.say(node.tail)
    writer.flush()
    return writer.wrote


def _is_left_out(node: Any, around: bool) -> bool:
    """Whether the element is not part of what the page says."""
    tag = node.tag
    if not isinstance(tag, str) or tag in _SILENT:
        return True
    attributes = node.attrib
    if not attributes and tag not in ("header", "ul", "ol", *_AROUND):
        return False
    if "hidden" in attributes or _UNSEEN.search(attributes.get("style", "")):
        return True
    classes = attributes.get("class", "").split()
    if not _MARKS.isdisjoint(classes):
        return True
    if around:
        return False
    if tag == "header":
        return not _is_inside(node, "article", "main", "section")
    return (
        tag in _AROUND
        or attributes.get("role") in _AROUND_ROLES
        or not _AROUND_CLASSES.isdisjoint(classes)
        or (tag in ("ul", "ol") and _is_inside(node, "header"))
    )


def _is_inside(node: Any, *tags: str) -> bool:
    return next(node.iterancestors(*tags), None) is not None


def _is_block(node: Any) -> bool:
    return node.tag in _BLOCKS and not _IN_LINE.search(node.get("style", ""))


def _paragraph(pieces: list[str]) -> str:
    """The pieces as lines without white space at their ends, one empty line at most between two."""
    text = "\n".join(one_line(line) for line in "".join(pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _verbatim(node: Any) -> str:
    """The text of preformatted lines."""
    for line_break in node.iter("br"):
        line_break.tail = "\n" + (line_break.tail or "")
    return "".join(node.itertext())


def _words(node: Any) -> str:
    """All that a cell or a caption says, on one line."""
    pieces: list[str] = []
    walk = etree.iterwalk(node, events=("start", "end"))
    for event, part in walk:
        space = " " if part.tag in _BLOCKS or part.tag == "br" else ""
        if event == "end":
            pieces.append(space + (part.tail or "" if part is not node else ""))
        elif part is not node and _is_left_out(part, around=True):
            walk.skip_subtree()
        else:
            pieces.append(space + (part.text or ""))
    return one_line("".join(pieces))


def _is_data(table: Any) -> bool:
    """Whether the table holds values: cells side by side, none of them a page of its own."""
    if table.get("role") in ("presentation", "none"):
        return False
    if any(part.tag in _NOT_IN_CELLS for part in table.iterdescendants()):
        return False
    return any(sum(cell.tag in ("td", "th") for cell in row) > 1 for row in table.iter("tr"))


def _table_text(table: Any) -> str:
    """Caption and rows, each with the header above it; a row of a form is `name: value`."""
    lines = [_words(node) for node in table.iter("caption")]
    rows = list(_grid(table))
    if any(kind == "names" for kind, _ in rows):
        header: list[str] = []
        before = ""
        for kind, cells in rows:
            if kind == "names":
                header = _merged(header, cells) if before == "names" else cells
            else:
                lines += table_lines([cells], header if kind != "title" else None)
            before = kind
    elif any(kind == "pair" for kind, _ in rows):
        lines += [": ".join(filter(None, [cells[0].rstrip(":"), *cells[1:]])) for _, cells in rows]
    else:
        lines.append(table_text([cells for _, cells in rows]))
    return "\n".join(filter(None, lines))


def _merged(upper: list[str], lower: list[str]) -> list[str]:
    """Two header rows as one: `2025` over `Sales` is `2025 Sales`."""
    pairs = zip_longest(upper, lower, fillvalue="")
    return [above if above == below else f"{above} {below}".strip() for above, below in pairs]


def _grid(table: Any) -> Iterator[tuple[str, list[str]]]:
    """The cells of each row by column, spans resolved, and what the row is: names, pair, title or values.

    A header's name stands over each column it spans; a value stands in the first column it spans, and in
    each row.
    """
    below: dict[int, tuple[int, str]] = {}  # column: rows that its cell still spans, and its text
    for row in table.iter("tr"):
        own = [cell for cell in row if cell.tag in ("td", "th") and not _is_left_out(cell, around=True)]
        if not own or _is_left_out(row, around=True):
            continue
        tags = [cell.tag for cell in own]
        kind = "values"
        if len(own) == 1 and not below:
            kind = "title"
        elif "td" not in tags or row.getparent().tag == "thead":
            kind = "names"
        elif tags == ["th", "td"]:
            kind = "pair"
        cells: list[str] = []
        for cell in own:
            _carry(cells, below)
            text = _words(cell)
            height = min(max(_number(cell.get("rowspan"), 1), 1), 10 * _MAX_SPAN)
            for offset in range(min(max(_number(cell.get("colspan"), 1), 1), _MAX_SPAN)):
                value = text if offset == 0 or kind == "names" else ""
                if height > 1:
                    below[len(cells)] = (height - 1, value)
                cells.append(value)
        _carry(cells, below)
        yield kind, cells


def _carry(cells: list[str], below: dict[int, tuple[int, str]]) -> None:
    """Add the cells that reach down from the rows above."""
    while len(cells) in below:
        rows, text = below.pop(len(cells))
        if rows > 1:
            below[len(cells)] = (rows - 1, text)
        cells.append(text)


def _number(text: str | None, default: int) -> int:
    """A whole number that a page states, or the default."""
    return int(text) if text and re.fullmatch(r"\s*\d{1,6}\s*", text) else default
