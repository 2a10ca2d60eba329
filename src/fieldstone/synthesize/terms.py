"""Dates, numbers and names in a sentence, found by their shape: no model, and English month names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["date", "number", "name"]

_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December"
    "|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?)"
)
_DATE = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)? )?{_MONTH}(?: \d{{1,2}}\b)?(?:,? \d{{4}}\b)?"
    r"|\b(?:1[0-9]|20)\d{2}s?\b|\b\d{1,2}[:.]\d{2}\b(?: ?[ap]\.?m\b)?"
)
_NUMBER = re.compile(
    r"[$£€]?\b\d[\d,]*(?:\.\d+)?(?:\s?%|\s(?:percent|million|billion|thousand)\b)?"
    r"|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred)\b",
    re.IGNORECASE,
)
_WORD = r"[A-Z][\w'’&-]*"
_NAME = re.compile(rf"\b{_WORD}(?:(?:\s+(?:of|the|de|von|van|du|la|al)){{0,2}}\s+{_WORD})*")
NO_NAME = re.compile(
    r"(?:a|an|the|this|that|these|those|it|its|he|she|his|her|they|their|we|our|you|your|i|in|on|at|to|for|from|by"
    r"|with|as|if|when|where|while|who|what|which|why|how|after|before|since|during|until|although|though|because"
    r"|there|here|and|or|but|not|no|some|many|most|all|both|each|every|other|another|such|however|thus|then|so|is"
    r"|are|was|were|do|does|did|has|have|had|can|may|must|should|will|would)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Term:
    """A term, what kind it is, and where it starts."""

    kind: Kind
    text: str
    start: int


def terms(text: str) -> list[Term]:
    """The dates, numbers and names of a text, in order; none lies inside another."""
    found: list[Term] = []
    for kind, spans in (
        ("date", _spans(_DATE, text)),
        ("number", _spans(_NUMBER, text)),
        ("name", _names(text)),
    ):
        for start, end in spans:
            if all(end <= t.start or start >= t.start + len(t.text) for t in found):
                found.append(Term(kind, text[start:end], start))  # type: ignore[arg-type]
    return sorted(found, key=lambda term: term.start)


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


def _names(text: str) -> Iterator[tuple[int, int]]:
    """Capitalised words in a row; the word that opens a sentence only where another one follows it."""
    for match in _NAME.finditer(text):
        start, end = match.span()
        while start < end and (first := re.match(r"\S+\s*", text[start:end])):
            if not NO_NAME.fullmatch(first[0].strip()):
                break
            start += first.end()
        opens = start == match.start() and (start == 0 or text[:start].rstrip()[-1:] in '.!?:;"“')
        if start < end and not (opens and " " not in text[start:end]):
            yield start, end
