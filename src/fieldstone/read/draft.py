"""A document while it is being written: its text grows, and headings and pages know where they start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from fieldstone.records import Document, Heading

_INVISIBLE = re.compile("[\u00ad\u200b\ufeff\x00]")


def clean(text: str) -> str:
    """The text with `\\n` for every line end, and without byte order marks, NULs and lone surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").removeprefix("\ufeff")
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """The words of `text` with one space between them."""
    return " ".join(_INVISIBLE.sub("", text).split())


def title_from(source: str) -> str:
    """The file's name as words: `docs/user_guide-v2.md` gives `user guide v2`."""
    stem = PurePosixPath(source).stem
    return " ".join(re.sub(r"[_\-\s]+", " ", stem).split()) or stem or source


class Draft:
    """Collects blocks, headings and page starts, then gives the document."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[Heading] = []
        self._pages: list[int] = []
        self._open_pages = 0  # pages that have started but hold no text yet

    def add(self, block: str, gap: str = "\n\n") -> int:
        """Append a block after `gap`; an empty one is left out. Returns the offset where it starts."""
        block = _INVISIBLE.sub("", block).replace("\u00a0", " ").strip("\n").rstrip()
        block = block.encode("utf-8", "replace").decode("utf-8")
        if not block.strip():
            return self._length
        if self._parts:
            self._parts.append(gap)
            self._length += len(gap)
        start = self._length
        self._pages += [start] * self._open_pages
        self._open_pages = 0
        self._parts.append(block)
        self._length += len(block)
        return start

    def heading(self, level: int, text: str) -> None:
        """Append a heading as a block of its own."""
        if text := one_line(text):
            self._headings.append(Heading(level, text, self.add(text)))

    def mark(self, level: int, text: str, start: int) -> None:
        """Note a heading that stands in the text already, or whose section starts at `start`."""
        self._headings.append(Heading(level, one_line(text), start))

    def page(self) -> None:
        """Start a page: it begins with the next block."""
        self._open_pages += 1

    @property
    def headings(self) -> tuple[Heading, ...]:
        """The headings so far, in order of their start."""
        return tuple(sorted(self._headings, key=lambda heading: heading.start))

    def document(self, source: str, title: str = "", metadata: Mapping[str, str] | None = None) -> Document:
        """The document; without a `title` its first heading of level 1, else the file's name."""
        headings = self.headings
        first = next((heading.text for heading in headings if heading.level == 1), "")
        pages = (*self._pages, *[self._length] * self._open_pages)
        title = one_line(title) or first or title_from(source)
        return Document.new(source, title, "".join(self._parts), metadata, headings, pages)
