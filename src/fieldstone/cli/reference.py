"""docs/cli.md: the help of every command, as the commands themselves print it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

INTRODUCTION = """# Commands

What `fieldstone COMMAND --help` prints. Written by `python -m fieldstone.cli.reference > docs/cli.md`;
a test fails when a command has changed and this page has not.
"""


def render() -> str:
    """The page."""
    import typer.main

    from fieldstone.cli.app import app

    group: Any = typer.main.get_command(app)
    return INTRODUCTION + "".join(
        f"\n## {name}\n\n```text\n{_help(command, name)}\n```\n"
        for name, command in _pages("fieldstone", group)
    )


def _pages(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The command, then those below it."""
    yield name, command
    for below, its in getattr(command, "commands", {}).items():
        yield from _pages(f"{name} {below}", its)


def _help(command: Any, name: str) -> str:
    """The help text, 80 columns wide whatever the terminal is."""
    context = command.context_class(
        command, info_name=name, terminal_width=80, help_option_names=["-h", "--help"]
    )
    return str(command.get_help(context)).rstrip()


if __name__ == "__main__":
    print(render(), end="")
