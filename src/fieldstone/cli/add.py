"""`fieldstone add`."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from fieldstone.cli.options import Quiet, Ray, WorkspacePath


def add(
    ctx: typer.Context,
    workspace: WorkspacePath,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", exists=True, help="Files or folders to read.", show_default=False),
    ] = None,
    mcp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVER",
            help="An MCP server whose resources to read: the command that starts it, in quotes, or its "
            "address. May be given again.",
            show_default=False,
        ),
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Fills in the server's resource templates. May be given again.",
            show_default=False,
        ),
    ] = None,
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="The MCP server may be on another machine.")
    ] = False,
    ray: Ray = None,
    quiet: Quiet = False,
) -> None:
    """Add files, folders or the resources of an MCP server to a workspace, or read them again.

    What has not changed is left alone; what is gone from a folder or a server goes.
    """
    from fieldstone import recipes
    from fieldstone.cli import progress
    from fieldstone.cli.build import summarise
    from fieldstone.cli.options import machines, settings_of
    from fieldstone.read.resources import Server
    from fieldstone.workspace import open_workspace

    if not paths and not mcp:
        raise typer.BadParameter("name a file or a folder, or an MCP server with --mcp")
    arguments = dict(_parted(its) for its in argument or ())
    logging.getLogger("mcp").addHandler(logging.NullHandler())  # it would print tracebacks
    servers = [Server(address, arguments, allow_network) for address in mcp or ()]
    began = time.perf_counter()
    opened = open_workspace(workspace)
    its = [*(paths or ()), *servers]
    with machines(ray) as (loader, spread), progress.shown(quiet or ctx.obj) as told:
        built = recipes.update(opened, settings_of(opened), its, told, loader=loader, spread=spread)
    summarise(opened, built, time.perf_counter() - began)


def _parted(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{argument!r}: write it as NAME=VALUE", param_hint="--argument")
    return name, value
