"""`fieldstone ask`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fieldstone.cli.options import Json, Mode, Rerank, Set, Since, Source, Type, Until

if TYPE_CHECKING:
    from fieldstone.answer import System
    from fieldstone.library import Library
    from fieldstone.records import Answer
    from fieldstone.search import Filter

FOUND_SHOWN = 3
"""Passages shown when the documents do not answer."""


def ask(
    workspace: Annotated[
        str | None,
        typer.Argument(
            metavar="WORKSPACE",
            help="The folder that `fieldstone build` made; left out with --sites.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="Without it: one question a line, until Ctrl-D.", show_default=False
        ),
    ] = None,
    reading: Annotated[
        Literal["auto", "one-by-one", "together", "mixture", "fid", "search"] | None,
        typer.Option(
            help="Read the passages one by one, all in one prompt, as a mixture, by Fusion-in-Decoder, or "
            "let the model search by itself.",
            show_default=False,
        ),
    ] = None,
    mode: Mode = None,
    rerank: Rerank = None,
    source: Source = None,
    type_: Type = None,
    since: Since = None,
    until: Until = None,
    changes: Set = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE_OR_URL",
            help="Ask these sites' servers in the place of a workspace: URLs, or a TOML file of [[sites]] "
            "with name, url and key. May be given again.",
            show_default=False,
        ),
    ] = None,
    deadline: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="What a site may take (--sites).")
    ] = 30.0,
    json: Json = False,
) -> None:
    """Answer a question from the documents, and say where it stands.

    When the documents do not answer, it says so and shows what comes nearest. Without a question it asks
    for one after the other; piped lines are questions too. With --json the answer to each such line is one
    JSON object on a line.
    """
    if sites:
        from fieldstone.cli.sites import ask_the_sites

        if question is not None:
            raise typer.BadParameter("with --sites give the question alone, without a workspace")
        if any((reading, mode, rerank, source, type_, since, until, changes)):
            raise typer.BadParameter("with --sites each site answers as it is set up; leave such options out")
        ask_the_sites(sites, _lines() if workspace is None else [workspace], deadline, as_json=json)
        return
    if workspace is None:
        raise typer.BadParameter("name the workspace to ask, or sites with --sites", param_hint="WORKSPACE")
    from fieldstone.answer import open_system
    from fieldstone.answer import stream_answer as stream
    from fieldstone.cli.options import filter_of, settings_of
    from fieldstone.cli.output import show, show_json, warn_if_unfinished
    from fieldstone.cli.progress import waiting
    from fieldstone.workspace import open_workspace

    opened = open_workspace(Path(workspace))
    settings = settings_of(opened, changes, mode=mode, rerank=rerank, reading=reading)
    only = filter_of(source, type_, since, until)
    with waiting("loading the models …"):
        system = open_system(opened, settings)
    warn_if_unfinished(system.index.library)
    for asked in [question] if question is not None else _lines():
        if json:
            answer = next(part for part in stream(system, asked, only) if not isinstance(part, str))
            show_json(_as_json(system.index.library, asked, answer), one_line=question is None)
        else:
            _answer(system, asked, only)
            if question is None:
                show()


def _lines() -> Iterator[str]:
    """Questions from the keyboard, or lines from a pipe; empty ones are passed over."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 (its import gives input() a history and the arrow keys)
    while True:
        try:
            line = input("? ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line:
            yield line


def _answer(system: System, question: str, only: Filter | None) -> None:
    """Print the answer as it comes, then where it stands."""
    from fieldstone.answer import stream_answer
    from fieldstone.cli.output import clean, out
    from fieldstone.cli.progress import waiting

    parts = stream_answer(system, question, only)
    written = ""
    with waiting("reading …"):
        part = next(parts)
    while isinstance(part, str):
        written += part
        out.print(clean(part), end="", soft_wrap=True)
        part = next(parts)
    if written:
        out.print()
    if part.text != written.strip():
        out.print(clean(part.text), soft_wrap=True)
    _show_sources(system.index.library, question, part)


def _show_sources(library: Library, question: str, answer: Answer) -> None:
    """The citations; when there is no answer, what was found instead."""
    from rich.text import Text

    from fieldstone.cli.output import one_line, place, show
    from fieldstone.cli.search import show_hits

    if answer.abstained:
        if answer.hits:
            show("Nearest to it:", style="dim")
            show_hits(library, answer.hits[:FOUND_SHOWN], question)
        return
    passages = {p.id: p for p in library.passages([c.passage_id for c in answer.citations])}
    sources = library.sources({p.document_id for p in passages.values()})
    for number, citation in enumerate(answer.citations, start=1):
        passage = passages.get(citation.passage_id)
        if passage is None:
            where = "a passage that has since been removed"
        else:
            where = place(sources.get(passage.document_id, ("", ""))[0], passage.headings, passage.page)
        doubt = "" if citation.verified else " (not found word for word)"
        quote = f': "{one_line(citation.quote)}"{doubt}'
        show(Text.assemble((where, "cyan"), quote), indent=4, mark=f"[{number}]")


def _as_json(library: Library, question: str, answer: Answer) -> dict[str, Any]:
    from fieldstone.cli.search import hits_as_json

    hits = hits_as_json(library, answer.hits)
    places = {
        hit["passage"]["id"]: {
            "source": hit["source"],
            "title": hit["title"],
            "headings": hit["passage"]["headings"],
            "page": hit["passage"]["page"],
        }
        for hit in hits
    }
    return {
        "question": question,
        "answer": None if answer.abstained else answer.text,
        "text": answer.text,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "citations": [asdict(c) | places.get(c.passage_id, {}) for c in answer.citations],
        "hits": hits,
        "timings": dict(answer.timings),
    }
