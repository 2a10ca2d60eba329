"""`fieldstone serve`."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldstone.cli.options import Quiet, Set

if TYPE_CHECKING:
    from collections.abc import Callable

    from fieldstone.serve.keys import Keys

NAMES = ("127.0.0.1", "[::1]", "localhost")
"""What this machine is called by those who sit at it."""


def serve(
    ctx: typer.Context,
    workspaces: Annotated[
        list[Path],
        typer.Argument(
            metavar="WORKSPACE", help="One or more; the first is the default.", show_default=False
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where to listen; else serve.host.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="0: any that is free; else serve.port.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The keys that open it, as `fieldstone keys` makes them; else those in the usual place.",
            show_default=False,
        ),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Ask for no key, though there are some; on this machine only.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the folders that were added: read what changes there.")
    ] = False,
    log: Annotated[
        Literal["plain", "json"],
        typer.Option("--log", help="Lines for people, or an object a line and one a request, on stderr."),
    ] = "plain",
    changes: Set = None,
    quiet: Quiet = False,
) -> None:
    """Serve workspaces over HTTP: a page, an API, and OpenAI's API. Ctrl-C ends it.

    It listens on this machine alone, unless --host says otherwise; then it takes keys. It can be asked once
    its models are loaded: /readyz says when.
    """
    import logging
    from functools import partial

    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import err, show
    from fieldstone.errors import SettingsError
    from fieldstone.serve.app import create_app
    from fieldstone.serve.engine import Engine
    from fieldstone.serve.logs import set_up
    from fieldstone.serve.run import listen, run
    from fieldstone.serve.shared import SharedModels
    from fieldstone.workspace import open_workspace

    flags = [*(changes or ())]
    flags += [f"serve.host={host}"] if host is not None else []
    flags += [f"serve.port={port}"] if port is not None else []
    opened = [open_workspace(path) for path in workspaces]
    names = [workspace.path.resolve().name for workspace in opened]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"two workspaces go by the name {twice[0]!r}; rename one of their folders")
    how = settings_of(opened[0], flags).serve
    access = _keys(how.host, keys, open_)
    hosts = () if access is not None else (*NAMES, how.host)
    with listen(how.host, how.port) as listening:
        models = SharedModels()
        engines = {name: Engine(its, flags, models) for name, its in zip(names, opened, strict=True)}
        app = create_app(engines, access, how, hosts=hosts, watch=watch)
        told = not (quiet or ctx.obj)
        set_up(log, logging.INFO if told else logging.WARNING)
        say: Callable[[str], None] = partial(show, to=err)
        if log == "json":
            say = logging.getLogger("fieldstone").info
        if told:
            name = f"[{how.host}]" if ":" in how.host else how.host
            address = f"http://{name}:{listening.getsockname()[1]}"
            opens = "open to this machine" if access is None else "opened by keys"
            say(f"{', '.join(names)}: {address}, {opens}; Ctrl-C ends it")
        run(app, listening)
    if told:
        say("ended")


def _keys(host: str, file: Path | None, open_: bool) -> Keys | None:
    """The keys that open it; None where it is open to all. Raises SettingsError where it may not be."""
    from fieldstone.errors import SettingsError
    from fieldstone.serve.keys import Keys, usual_file

    local = _is_this_machine(host)
    if open_ and not local:
        raise SettingsError(f"--open is for this machine alone, but serve.host = {host}; leave one out")
    if open_:
        return None
    path = file or usual_file()
    kept = Keys(path)
    if len(kept):
        return kept
    if local and file is None:
        return None
    where = f" --file {quote(str(file))}" if file else ""
    why = "" if local else f"serve.host = {host} lets other machines in, but "
    raise SettingsError(
        f"{why}there is no key in {path}; make one with: fieldstone keys make NAME{where}, "
        "then type the same again"
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
