"""`fieldstone add`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fieldstone.cli.options import Quiet, WorkspacePath


def add(
    ctx: typer.Context,
    workspace: WorkspacePath,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", exists=True, help="Files or folders to read.", show_default=False),
    ],
    quiet: Quiet = False,
) -> None:
    """Add files or folders to a workspace, or read them again.

    What has not changed is left alone; what is gone from a folder goes.
    """
    from fieldstone import recipes
    from fieldstone.cli import progress
    from fieldstone.cli.build import summarise
    from fieldstone.cli.options import settings_of
    from fieldstone.workspace import open_workspace

    began = time.perf_counter()
    opened = open_workspace(workspace)
    with progress.shown(quiet or ctx.obj) as told:
        built = recipes.update(opened, settings_of(opened), paths, told)
    summarise(opened, built, time.perf_counter() - began)
