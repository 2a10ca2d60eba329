"""`fieldstone rollback`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fieldstone.cli.options import Json, Quiet, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.in_use import Part
    from fieldstone.progress import Progress
    from fieldstone.settings import Settings
    from fieldstone.workspace import Workspace


def rollback(
    ctx: typer.Context,
    workspace: WorkspacePath,
    part: Annotated[
        Literal["retriever", "reranker", "generator"] | None,
        typer.Option(help="Without it: the part that was tuned last.", show_default=False),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Take the newest tuned part out of use.

    What was in use before it is used again, in the end the untuned model. After a retriever the vectors are
    made anew; until the last one is there, everything stays as it is. The tuned model's folder stays too.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import count, show, show_json
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    with progress.shown(quiet or ctx.obj or json) as told:
        done = _roll_back(opened, settings_of(opened), part, told)
    if json:
        show_json(done)
    elif not (taken := done["taken_out"]):
        show(f"Nothing tuned is in use{f' as {part}' if part else ''}.")
    else:
        show(f"The {taken['part']} {taken['name']} is out of use; in use now: {done['in_use']}")
        if taken["part"] == "retriever":
            show(f"{count(done['embedded'], 'vector')} made anew", indent=2)
        show("Its folder stays; delete it if you need the space.", style="dim")


def _roll_back(
    workspace: Workspace, settings: Settings, part: Part | None, progress: Progress
) -> dict[str, Any]:
    """What was taken out of use and what is used in its place, as JSON has it."""
    from fieldstone.in_use import base_of, model_in_use, newest, roll_back

    with workspace.writing():
        began = time.perf_counter()
        choice = newest(workspace, part)
        if choice is None:
            return {"workspace": str(workspace.path), "taken_out": None, "in_use": None, "embedded": 0}
        base = base_of(settings, choice.part)
        after = model_in_use(workspace, choice.part, base, rolled_back=True)
        embedded = 0
        if choice.part == "retriever":  # first, so that a kill leaves the old retriever with its vectors
            embedded = _embed(workspace, settings, after, progress)
        roll_back(workspace, choice.part)
        facts = {"in_use": after, "embedded": embedded}
        seconds = round(time.perf_counter() - began, 3)
        workspace.journal("rollback", seconds=seconds, taken_out=asdict(choice), **facts)
        return {"workspace": str(workspace.path), "taken_out": asdict(choice), **facts}


def _embed(workspace: Workspace, settings: Settings, encoder: str, progress: Progress) -> int:
    """Give the library the vectors of this encoder; returns how many were missing."""
    from fieldstone.models import load_encoder
    from fieldstone.search.embed import embed_library

    models = settings.models
    library = workspace.library()
    try:
        library.set_meta("made by", "")  # the next build looks for itself whether all is as it should be
        progress("load", 0, 1, "encoder")
        loaded = load_encoder(
            encoder, device=models.device, threads=models.threads or None, engine=models.engine
        )
        progress("load", 1, 1, "encoder")
        return embed_library(library, loaded, progress)
    finally:
        library.close()
