"""Rich Text Format."""

from __future__ import annotations

import re

from striprtf.striprtf import rtf_to_text

from fieldstone.read.draft import Draft, clean, one_line
from fieldstone.read.tables import table_text
from fieldstone.records import Document

_OUTLINE = re.compile(r"\\outlinelevel(\d)\b(.*?)\\par\b", re.S)
_TITLE = re.compile(r"\{\\title\s+([^{}]+)\}")


def read_rtf(data: bytes, source: str) -> list[Document]:
    """One document a file; table rows keep their header, outline levels are headings."""
    markup = data.decode("latin-1")  # RTF is ASCII; other letters are escapes, which striprtf decodes
    text = clean(rtf_to_text(markup, errors="replace"))
    outline = {}
    for level, words in _OUTLINE.findall(markup):
        outline[one_line(rtf_to_text(r"{\rtf1 " + words + "}", errors="ignore"))] = int(level) + 1
    draft = Draft()
    table: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        if line.rstrip().endswith("|"):  # how striprtf writes a row
            table.append(line.rstrip().removesuffix("|").split("|"))
            continue
        if table:
            draft.add(table_text(table))
            table = []
        if level := outline.pop(one_line(line), 0):
            draft.heading(level, line)
        else:
            draft.add(line)
    title = _TITLE.search(markup)
    return [
        draft.document(source, rtf_to_text(r"{\rtf1 " + title[1] + "}", errors="ignore") if title else "")
    ]
