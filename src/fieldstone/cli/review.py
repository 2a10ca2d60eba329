"""`fieldstone review`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fieldstone.cli.options import Json, WorkspacePath


def review(
    workspace: WorkspacePath,
    into: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("review.html"),
    read: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take in what the page exported.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Decide what is learnt from the feedback on answers.

    Writes one page that needs no server and no network: on it a person accepts, corrects or throws away
    what people said of answers, and answers that were refused or wrongly cited. With --read the decisions
    are taken in; the next `fieldstone build` trains and judges by what was accepted.
    """
    from dataclasses import asdict

    from fieldstone.atomic import write_text
    from fieldstone.cli.output import count, show, show_json, show_reasons
    from fieldstone.errors import FeedbackError
    from fieldstone.serve.review import read_decisions, render_review, take_decisions, to_review
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    decided = read_decisions(read) if read else None
    library = opened.library()
    try:
        if decided is not None:
            taken = take_decisions(library, decided)
            if json:
                show_json(asdict(taken))
                return
            done = f"{taken.accepted} accepted, {taken.corrected} corrected, {taken.discarded} thrown away"
            show(f"{count(taken.accepted + taken.corrected + taken.discarded, 'decision')} taken in: {done}")
            show_reasons("Left out", taken.left_out)
            if taken.accepted or taken.corrected:
                show(
                    f"They are learnt with the next:  fieldstone build FOLDER --into {quote(str(workspace))}"
                )
            return
        entries = to_review(library)
        if entries:
            page = render_review(library, entries, opened.path.resolve().name)
            try:
                write_text(into, page)
            except OSError as error:
                raise FeedbackError(
                    f"{into} cannot be written: {error.strerror}; name another --into"
                ) from None
    finally:
        library.close()
    if json:
        show_json({"page": str(into) if entries else None, "to_review": len(entries)})
    elif not entries:
        show("There is nothing to review.")
    else:
        show(f"{into}: {count(len(entries), 'answer')} to review")
        show(f"When it is done:  fieldstone review {quote(str(workspace))} --read review-NAME.json")
