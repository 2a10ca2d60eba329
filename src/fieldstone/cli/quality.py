"""`fieldstone quality`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Set, WorkspacePath


def quality(
    ctx: typer.Context,
    workspace: WorkspacePath,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Look at this file of questions instead of those that the workspace wrote.",
            show_default=False,
        ),
    ] = None,
    closed_book: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Put so many questions to the generator without their passage."
        ),
    ] = 0,
    alike: Annotated[
        float, typer.Option(min=0, max=1, help="From this cosine on two questions count as one.")
    ] = 0.95,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say how good the questions are that a workspace was tuned and measured with.

    Repeats, and worse, questions of dev and test that stand in train; what of the documents is asked about;
    how it is asked; answers, hard negatives; what the model knew anyway. Each with what to do about it.
    """
    from fieldstone.atomic import write_json, write_text
    from fieldstone.cli import progress
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import show, show_json
    from fieldstone.evaluate.quality.advice import findings
    from fieldstone.evaluate.quality.look import look
    from fieldstone.evaluate.report.page.quality import render_quality
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    settings = settings_of(opened, changes)
    with progress.shown(quiet or ctx.obj or json) as told:
        found = look(opened, settings, questions, closed_book=closed_book, alike=alike, progress=told)
    now = datetime.now(UTC)
    folder = opened.reports / f"{now:%Y%m%dT%H%M%SZ}-questions"
    said = findings(found)
    content = {
        "date": now.isoformat(timespec="seconds"),
        "findings": [its._asdict() for its in said],
        **asdict(found),
    }
    write_json(folder / "quality.json", content)
    write_text(folder / "quality.html", render_quality(found, f"{now:%Y-%m-%d %H:%M:%S} UTC"))
    if json:
        show_json({**content, "report": str(folder / "quality.html")})
        return
    for topic, what, advice in said:
        show(what, indent=13, mark=topic)
        if advice:
            show(advice, indent=15, mark=" " * 13 + "→", style="yellow")
    show()
    show(f"The report, with examples of each: {folder / 'quality.html'}")
