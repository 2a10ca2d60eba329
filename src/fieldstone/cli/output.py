"""How results look: made safe for a terminal, wrapped on one, left whole in a pipe; or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from fieldstone.library import Library

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

SHOWN = 10
"""So many lines of a list are shown before the rest is counted."""

# A document's words must not steer the terminal: control characters and the marks that reverse text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text with a mark in the place of every character that would steer a terminal."""
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str, most: int = 0) -> str:
    """The text with single spaces for white space, cut to `most` characters where given."""
    line = " ".join(clean(text).split())
    return line if not most or len(line) <= most else line[: most - 1].rstrip() + "…"


def show(text: str | Text = "", indent: int = 0, style: str = "", to: Console = out, mark: str = "") -> None:
    """One line of output: wrapped under its indentation on a terminal, whole anywhere else.

    `mark` stands in the indentation of the first row.
    """
    line = text.copy() if isinstance(text, Text) else Text(clean(text), style)
    rows = list(line.wrap(to, max(to.width - indent, 20))) if to.is_terminal else [line]
    for number, row in enumerate(rows or [line]):
        row.rstrip()
        margin = ("" if number else mark).ljust(indent)
        to.print(Text.assemble((margin, "bold"), row) if indent else row, soft_wrap=True)


def show_json(value: Mapping[str, Any], *, one_line: bool = False) -> None:
    """One JSON object."""
    print(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2), flush=one_line)


def show_reasons(title: str, rows: Sequence[tuple[str, str]], more: str = "", style: str = "yellow") -> None:
    """Files with a reason each; with `more`, the first ten and then how to see the rest."""
    if not rows:
        return
    show()
    show(f"{title} ({len(rows)})", style=f"bold {style}")
    shown = rows[:SHOWN] if more else rows
    for source, reason in shown:
        show(Text.assemble(one_line(source), (f": {one_line(reason)}", "dim")), indent=2)
    if len(rows) > len(shown):
        show(f"and {len(rows) - len(shown)} more: {more}", indent=2)


def place(source: str, headings: Sequence[str], page: int | None) -> str:
    """Where a passage stands: file › heading › page."""
    parts = [source, *headings, *([f"page {page}"] if page is not None else [])]
    return " › ".join(one_line(part) for part in parts)


def size(bytes_: float) -> str:
    """Bytes as a person says them."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1)):
        if bytes_ < 1000:
            return f"{bytes_:.{digits}f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} GB"


def count(number: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def warn_if_unfinished(library: Library) -> None:
    """Say on standard error that a build was stopped before its end."""
    counts = library.counts()
    if counts.unsplit or counts.embedded < counts.passages:
        show("note: the build of this workspace has not finished; type it again", style="yellow", to=err)
