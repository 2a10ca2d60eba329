"""Text that stays as it stands: plain text, Markdown, reStructuredText, Org and source code.

Quotes must stand in the file, so nothing is rewritten; a light scan finds the headings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

from fieldstone.read.archives import iso_day
from fieldstone.read.draft import one_line, title_from
from fieldstone.read.encodings import decode
from fieldstone.records import Document, Heading

_FRONT = re.compile(
    r"\A\s*(?:<!--.*\n)?(?P<fence>---|\+\+\+)[ \t]*\n"
    r"(?P<body>(?:.*\n)*?)(?P=fence)[ \t]*(?:\n<!.*-->)?(?:\n+|\Z)"
)
_FIELD = re.compile(r"^(?P<name>[\w-]+)[ \t]*[:=][ \t]*(?P<value>.*)$", re.M)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"\s*(?:[-*+]\s|[>|#]|\d+[.)]\s|$)|    ")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
_DEFINITION = re.compile(
    r"(?:(?:export|default|pub(?:\([^)]*\))?|public|private|static|final|abstract|async|unsafe)\s+)*"
    r"(?:def|class|function|func|fn|interface|struct|enum|trait|impl|module|type)\s+[\w.:<>$]+"
)


def read_text(data: bytes, source: str) -> list[Document]:
    """Plain text. A short first line that stands alone is the title."""
    text = decode(data)
    first, _, rest = text.lstrip("\n").partition("\n")
    alone = rest.startswith("\n") and rest.strip() and 0 < len(first.strip()) <= 80
    title = first if alone and first.rstrip()[-1:] not in ".,;:?" else ""
    return [Document.new(source, one_line(title) or title_from(source), text)]


def read_code(data: bytes, source: str) -> list[Document]:
    """Source code: definitions that start a line are its headings, the file's name is its title."""
    text = decode(data)
    headings = []
    for start, line in _lines(text):
        if definition := _DEFINITION.match(line):
            headings.append(Heading(1, definition.group().rstrip(":"), start))
    return [Document.new(source, PurePosixPath(source).name, text, headings=tuple(headings))]


def read_markdown(data: bytes, source: str) -> list[Document]:
    """Markdown; front matter gives title and date and is left out of the text."""
    return [markdown(decode(data), source)]


def markdown(text: str, source: str, title: str = "") -> Document:
    """The document of a Markdown text: it opens with its title, or front matter has it, or it is `title`."""
    fields: dict[str, str] = {}
    front = _FRONT.match(text)
    if front and _FIELD.match(front["body"].lstrip()):
        fields = {
            field["name"].lower(): field["value"].strip(" \t\"'") for field in _FIELD.finditer(front["body"])
        }
        text = text[front.end() :]
    headings = tuple(_markdown_headings(text))
    day = iso_day(fields.get("date", ""))
    opens = _first(headings[:1]) if headings and not _words_before(text, headings[0].start) else ""
    return Document.new(
        source,
        opens or one_line(fields.get("title", "")) or title or _first(headings) or title_from(source),
        text,
        {"date": day} if day else {},
        headings,
    )


def read_rst(data: bytes, source: str) -> list[Document]:
    """reStructuredText: the level of a heading is the order in which its adornment first appears."""
    text = decode(data)
    headings = tuple(_rst_headings(text))
    return [Document.new(source, _first(headings) or title_from(source), text, headings=headings)]


def read_org(data: bytes, source: str) -> list[Document]:
    """Org: stars are headings; `#+TITLE:` names the document."""
    text = decode(data)
    headings = []
    for start, line in _lines(text):
        if star := re.match(r"(\*+)\s+(?:(?:TODO|DONE)\s+)?(.*?)(?:\s+:[\w:@]+:)?\s*$", line):
            headings.append(Heading(len(star[1]), star[2], start))
    named = re.search(r"^#\+title:\s*(.+)$", text, re.I | re.M)
    title = one_line(named[1]) if named else _first(tuple(headings))
    return [Document.new(source, title or title_from(source), text, headings=tuple(headings))]


def _first(headings: tuple[Heading, ...]) -> str:
    """The first heading of the highest level, if that is level 1."""
    return next((heading.text for heading in headings if heading.level == 1), "")


def _words_before(text: str, start: int) -> bool:
    """Whether there is more than pictures, comments and white space above `start`."""
    return bool(re.sub(r"!\[.*?\]\(.*?\)|<[^>]*>|[^\w]", "", text[:start]))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with the offset where it starts."""
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def _markdown_headings(text: str) -> Iterator[Heading]:
    fence = ""
    before, before_start = "", 0
    for start, line in _lines(text):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
            line = ""
        elif mark:
            fence = mark[1]
            line = ""
        elif atx := _ATX.match(line):
            if name := _markdown_words(atx[2] or ""):
                yield Heading(len(atx[1]), name, start)
            line = ""
        elif (rule := _SETEXT.match(line)) and not _NO_PARAGRAPH.match(before):
            yield Heading(1 if rule[1][0] == "=" else 2, _markdown_words(before), before_start)
            line = ""
        before, before_start = line, start


def _markdown_words(text: str) -> str:
    """A heading's words without anchors, links, emphasis and code marks."""
    text = re.sub(r"\s*\{[^{}]*\}\s*$", "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"</?[a-zA-Z][^>]*>", "", text)
    return one_line(re.sub(r"`|\*\*|__|(?<!\w)[*_]|[*_](?!\w)", "", text))


def _rst_headings(text: str) -> Iterator[Heading]:
    styles: list[tuple[str, bool]] = []
    lines = list(_lines(text))
    skip = -1
    for index in range(len(lines) - 1):
        start, line = lines[index]
        under = _ADORNMENT.match(lines[index + 1][1])
        if index <= skip or not under or not line.strip() or _ADORNMENT.match(line):
            continue
        over = _ADORNMENT.match(lines[index - 1][1]) if index else None
        overlined = over is not None and over[0].strip() == under[0].strip()
        if (line[0].isspace() and not overlined) or len(under[0].strip()) < min(_width(line.strip()), 4):
            continue
        if not overlined and index and lines[index - 1][1].strip():
            continue  # the last line of a paragraph or a table, not a title
        style = (under[1], overlined)
        if style not in styles:
            styles.append(style)
        skip = index + 1
        yield Heading(styles.index(style) + 1, _rst_words(line), lines[index - 1][0] if overlined else start)


def _width(text: str) -> int:
    """Columns that the text takes: East Asian characters take two."""
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def _rst_words(text: str) -> str:
    """A heading's words without roles and literal marks."""
    text = re.sub(r":[\w:+.-]+:`[~!]?([^`<]+?)(?:\s*<[^`>]*>)?`", r"\1", text)
    return one_line(re.sub(r"\\(.)", r"\1", text.replace("``", "").replace("`", "").replace("**", "")))
