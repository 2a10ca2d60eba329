"""Where a quotation stands in a text, and the sentence around it."""

from __future__ import annotations

import re
from itertools import pairwise

Span = tuple[int, int]

GAP = r"(?:-?\s|[\u00ad\u200b])*"
"""What may stand between two characters of a quotation: white space, a line-end hyphen, a soft hyphen."""

_NUMBER = r"(?<!^\d)(?<!^\d\d)(?<!\s\s\d)(?<!\s\s\d\d)"  # of a list item: its full stop ends nothing
_SENTENCE_END = re.compile(
    _NUMBER + r"[.!?][\"')\]’”]*(?=\s)|[。！？]+[」』”]*|\n\s*\n|\n(?=[ \t]*([-*•#|]|\d+[.)]\s))"
    r"|\n(?=[^\s:;][^:;\n]{0,60}: [^;\n]*;)",  # the next row of a table
    re.MULTILINE,
)


def find(quote: str, text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Every place in `text[start:end]` where `quote` stands, whatever its case and white space."""
    letters = [re.escape(letter) for letter in quote if not letter.isspace()]
    if not letters:
        return []
    pattern = re.compile(GAP.join(letters), re.IGNORECASE)
    return [match.span() for match in pattern.finditer(text, start, len(text) if end is None else end)]


def find_words(quote: str, text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """As `find`, but where it stands as words of its own if it does anywhere: not "art" in "part"."""
    spans = find(quote, text, start, end)
    whole = [(a, b) for a, b in spans if not _inside_word(text, a) and not _inside_word(text, b)]
    return whole or spans


def sentences(text: str) -> list[Span]:
    """The sentences of `text` in order, without the white space between them; a list item or row is one."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    spans = []
    for start, end in pairwise(cuts):
        piece = text[start:end]
        if piece.strip():
            spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
    return spans


def _inside_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()
