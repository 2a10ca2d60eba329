"""`fieldstone search`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldstone.cli.options import Json, Mode, Rerank, Set, Since, Source, Type, Until, WorkspacePath

if TYPE_CHECKING:
    from rich.text import Text

    from fieldstone.library import Library
    from fieldstone.records import Hit

SNIPPET = 240
"""Characters of a passage that are shown."""

COMMON = (
    "a an and are as at be by can did do does for from had has have how i if in into is it its many may "
    "much must my not of on or our so that the they this to us was we were what when where which who why "
    "will with you your"
)
"""Words that are not worth the bold."""


def search(
    workspace: WorkspacePath,
    question: Annotated[
        str, typer.Argument(metavar="WORDS", help="A question, or a few words.", show_default=False)
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 10,
    mode: Mode = None,
    rerank: Rerank = None,
    source: Source = None,
    type_: Type = None,
    since: Since = None,
    until: Until = None,
    changes: Set = None,
    json: Json = False,
) -> None:
    """Find the passages that fit a question best.

    Each comes with its file, headings, page and score.
    """
    from fieldstone.cli.options import filter_of, settings_of
    from fieldstone.cli.output import show, show_json, warn_if_unfinished
    from fieldstone.cli.progress import waiting
    from fieldstone.in_use import with_tuned
    from fieldstone.search import search as find
    from fieldstone.search.open import open_index
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    settings = with_tuned(opened, settings_of(opened, changes, mode=mode, rerank=rerank))
    only = filter_of(source, type_, since, until)
    with waiting("searching …"):
        index = open_index(opened, settings)
        hits = find(index, [question], settings.search, k, only)[0]
    warn_if_unfinished(index.library)
    if json:
        show_json({"question": question, "hits": hits_as_json(index.library, hits)})
    elif not hits:
        show("Nothing was found.")
    else:
        show_hits(index.library, hits, question)


def hits_as_json(library: Library, hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Hits with the source and title of their documents."""
    sources = library.sources({hit.passage.document_id for hit in hits})
    result = []
    for hit in hits:
        source, title = sources.get(hit.passage.document_id, ("", ""))
        result.append({**asdict(hit), "source": source, "title": title})
    return result


def show_hits(library: Library, hits: Sequence[Hit], question: str) -> None:
    """Each hit as a place, a score and the part of it that has most of the question's words."""
    from rich.text import Text

    from fieldstone.cli.output import place, show

    sources = library.sources({hit.passage.document_id for hit in hits})
    for hit in hits:
        passage = hit.passage
        where = place(sources.get(passage.document_id, ("", ""))[0], passage.headings, passage.page)
        head = Text.assemble((where, "cyan"), (f"  {hit.score:.3f}", "dim"))
        show(head, indent=4, mark=f"{hit.rank:>2}")
        show(snippet(passage.text, question), indent=4)


def snippet(text: str, question: str, length: int = SNIPPET) -> Text:
    """The stretch of `text` with most of the question's words, those in bold."""
    from rich.text import Text

    from fieldstone.cli.output import one_line
    from fieldstone.search.words import index_words

    line = one_line(text)
    asked = set(index_words(question)) - set(index_words(COMMON))
    spans = [m.span() for m in re.finditer(r"\w+", line) if asked.intersection(index_words(m[0]))]
    # the window begins a little before the word from which most others can be seen
    seen = {a: sum(a <= x and y <= a + length - 30 for x, y in spans) for a, _ in spans}
    best = max(seen, key=lambda at: (seen[at], -at), default=0)
    begin = min(best - 30, len(line) - length)
    start = line.find(" ", begin) + 1 if begin > 0 else 0
    end = len(line) if len(line) - start <= length else max(line.rfind(" ", 0, start + length), start + 1)
    shown = Text(("… " if start else "") + line[start:end] + (" …" if end < len(line) else ""))
    for a, b in spans:
        if start <= a and b <= end:
            shift = (2 if start else 0) - start
            shown.stylize("bold", a + shift, b + shift)
    return shown
