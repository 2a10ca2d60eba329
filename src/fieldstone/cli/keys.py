"""`fieldstone keys make`, `list` and `revoke`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fieldstone.cli.options import Json

keys = typer.Typer(help="API keys: who may use a server, and what for.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Where the keys are kept; $FIELDSTONE_KEYS, or else ~/.config/fieldstone/keys.json.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses the key.", show_default=False)]


@keys.command()
def make(
    name: Name,
    workspace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A workspace that it opens, as the server names it. May be given again. Without it: all.",
            show_default=False,
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="It may also add and remove documents, and read the feedback.")
    ] = False,
    asking: Annotated[
        bool,
        typer.Option(
            "--asking", help="It may ask questions and do nothing else, and gets what the site shares."
        ),
    ] = False,
    file: File = None,
    json: Json = False,
) -> None:
    """Make a key. It is shown once; only its hash is kept."""
    from fieldstone.cli.output import err, show, show_json
    from fieldstone.serve.keys import make_key, usual_file

    path = file or usual_file()
    opened = tuple(dict.fromkeys(workspace)) if workspace else None
    token = make_key(path, name, opened, admin=admin, asking=asking)
    if json:
        show_json({"name": name, "token": token, "file": str(path)})
        return
    print(token)
    show(f"Keep it: it is not shown again. Its hash is in {path}.", to=err, style="dim")


@keys.command(name="list")
def list_(file: File = None, json: Json = False) -> None:
    """List the keys: names, what they open, when they were made, how they end."""
    from dataclasses import asdict

    from rich.text import Text

    from fieldstone.cli.output import one_line, show, show_json
    from fieldstone.serve.keys import read_keys, usual_file

    path = file or usual_file()
    kept = read_keys(path)
    if json:
        shown = [{k: v for k, v in asdict(key).items() if k != "hash"} for key in kept]
        show_json({"file": str(path), "keys": shown})
        return
    for key in kept:
        opened = "all workspaces" if key.workspaces is None else ", ".join(map(one_line, key.workspaces))
        may = "admin " if key.admin else "asking" if key.asking else "read  "
        what = f"…{key.last4}  {may}  {key.made[:10]}  {opened}"
        show(Text.assemble(one_line(key.name).ljust(20), "  ", (what, "dim")))
    if not kept:
        show(f"There are no keys in {path}. Make one with: fieldstone keys make NAME")


@keys.command()
def revoke(name: Name, file: File = None) -> None:
    """Take a key away. A running server refuses it from the next request on."""
    from fieldstone.cli.output import show
    from fieldstone.serve.keys import revoke_key, usual_file

    gone = revoke_key(file or usual_file(), name)
    show(f"{gone.name} (…{gone.last4}) opens nothing any more")
