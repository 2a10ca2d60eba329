"""`fieldstone ask --sites`: what several sites answer, shown with the name of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldstone.federate.ask import Quoted, SitesAnswer


def ask_the_sites(given: Sequence[str], questions: Iterable[str], deadline: float, *, as_json: bool) -> None:
    """Ask the sites each question, and print what they answer; lines in, JSON lines out."""
    from fieldstone.cli.output import show, show_json
    from fieldstone.cli.progress import waiting
    from fieldstone.federate.addresses import read_sites
    from fieldstone.federate.ask import ask_sites

    sites = read_sites(given)
    for question in questions:
        with waiting(f"asking {len(sites)} sites …"):
            got = ask_sites(sites, question, deadline)
        if as_json:
            show_json(_as_json(got), one_line=not isinstance(questions, Sequence))
            continue
        _show(got)
        if not isinstance(questions, Sequence):
            show()


def _show(got: SitesAnswer) -> None:
    """The best answer with its quotes, then the others, then who did not answer."""
    from fieldstone.cli.output import one_line, show

    show(one_line(got.text))
    for number, quoted in enumerate(got.candidates[0].citations if got.candidates else (), start=1):
        _show_quote(quoted, f"[{number}]")
    for other in got.candidates[1:]:
        names = ", ".join(dict.fromkeys(one_line(its.site) for its in other.citations))
        show(f"Otherwise {names} ({other.confidence:.2f}): {one_line(other.text)}", style="dim")
    if got.silent:
        show(f"Not in the documents of: {', '.join(map(one_line, got.silent))}", style="dim")
    for name, why in got.failed:
        show(f"Left out: {one_line(name)}: {one_line(why)}", style="yellow")


def _show_quote(quoted: Quoted, mark: str) -> None:
    from rich.text import Text

    from fieldstone.cli.output import one_line, place, show

    source = quoted.source or quoted.title
    stands = [place(source, quoted.headings, quoted.page)] if source else []
    where = " › ".join([one_line(quoted.site), *stands])
    doubt = "" if quoted.verified or not quoted.quote else " (not found word for word)"
    said = f': "{one_line(quoted.quote)}"{doubt}' if quoted.quote else ""
    show(Text.assemble((where, "cyan"), said), indent=4, mark=mark)


def _as_json(got: SitesAnswer) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "question": got.question,
        "answer": got.candidates[0].text if got.candidates else None,
        "text": got.text,
        "abstained": not got.candidates,
        "confidence": got.candidates[0].confidence if got.candidates else 0.0,
        "citations": [asdict(its) for its in (got.candidates[0].citations if got.candidates else ())],
        "candidates": [asdict(its) for its in got.candidates],
        "silent": list(got.silent),
        "failed": [{"site": name, "reason": why} for name, why in got.failed],
        "seconds": got.seconds,
    }
