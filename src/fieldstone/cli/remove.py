"""`fieldstone remove`."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from fieldstone.cli.options import WorkspacePath


def remove(
    workspace: WorkspacePath,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Files or folders as `fieldstone status --files` and the citations name them.",
            show_default=False,
        ),
    ],
) -> None:
    """Take documents out of a workspace.

    The files themselves stay where they are. A server that follows their folder leaves them out, too.
    """
    from fieldstone import recipes
    from fieldstone.cli.output import SHOWN, count, show
    from fieldstone.errors import ReadError
    from fieldstone.workspace import open_workspace

    gone = recipes.remove(open_workspace(workspace), sources)
    if not gone:
        status = f"fieldstone status {quote(str(workspace))} --files"
        raise ReadError(", ".join(sources), f"not in the workspace; to see what is, type: {status}")
    show(f"{count(len(gone), 'file')} removed")
    for source in gone[:SHOWN]:
        show(source, indent=2)
    if len(gone) > SHOWN:
        show(f"and {len(gone) - SHOWN} more", indent=2)
    show("They come back with the next build of their folder, unless you --exclude them there.", style="dim")
