"""A page that is one HTML file: it opens from a disk and asks for nothing from outside."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from string import Template
from typing import Any

from fieldstone.quotes import find
from fieldstone.records import Passage


def render_page(template: str, style: str, script: str, content: Mapping[str, Any]) -> str:
    """The page: `template` has $policy, $style, $script and, for the content as JSON, $sheet.

    Only this style and this script run in it, and no text of the content ends the element it stands in.
    """
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return Template(template).substitute(policy=policy, style=style, script=script, sheet=data)


def place_of(source: str, passage: Passage) -> str:
    """Where a passage stands: file › heading › page."""
    page = [f"page {passage.page}"] if passage.page is not None else []
    return " › ".join([source, *passage.headings, *page])


def pieces(quote: str, text: str) -> list[tuple[str, bool]]:
    """The text in pieces [text, is it the quote]; no piece is where the text does not hold the quote."""
    start, end = next(iter(find(quote, text)), (0, 0))
    cut = ((text[:start], False), (text[start:end], True), (text[end:], False))
    return [(piece, quoted) for piece, quoted in cut if piece]


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
