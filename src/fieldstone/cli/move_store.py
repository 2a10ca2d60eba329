"""`fieldstone move-store`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Set, WorkspacePath


def move_store(
    ctx: typer.Context,
    workspace: WorkspacePath,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Where to: qdrant://HOST:6333, faiss:///FOLDER/NAME.faiss, chroma://HOST:8000, library …",
            show_default=False,
        ),
    ],
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Move the vectors of a workspace into another store, and search there from then on.

    They are copied out of the library, which keeps them; the words stay where they are. Until the last vector
    is there, the workspace searches where it did. Stopped or killed, it goes on where it was. Settings such
    as store.shards are kept in the workspace.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import count, show, show_json
    from fieldstone.search.move import move_store as move
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    before = settings_of(opened).search.store
    settings = settings_of(opened, [*(changes or ()), f"search.store={url}"])
    with progress.shown(quiet or ctx.obj or json) as told:
        moved = move(opened, settings, told)
    if json:
        show_json({"workspace": str(workspace), "before": before, **asdict(moved)})
        return
    show(f"{count(moved.vectors, 'vector')} in {moved.store}; the workspace searches there now")
    if moved.recall is not None:
        show(f"of the ten nearest by an exact search it finds {moved.recall:.1%}", indent=2)
    if before not in ("library", moved.store):
        show(f"What {before} holds stays there; delete it if you need the space.", style="dim")
