"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import sqlite3
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fieldstone.cli.add import add
from fieldstone.cli.ask import ask
from fieldstone.cli.benchmark import benchmark
from fieldstone.cli.build import build
from fieldstone.cli.compare import compare
from fieldstone.cli.doctor import doctor
from fieldstone.cli.evaluate import evaluate
from fieldstone.cli.federate import federate
from fieldstone.cli.grade import grade
from fieldstone.cli.keys import keys
from fieldstone.cli.mcp import mcp
from fieldstone.cli.move_store import move_store
from fieldstone.cli.options import Quiet
from fieldstone.cli.quality import quality
from fieldstone.cli.recipes import recipes
from fieldstone.cli.remove import remove
from fieldstone.cli.review import review
from fieldstone.cli.rollback import rollback
from fieldstone.cli.search import search
from fieldstone.cli.serve import serve
from fieldstone.cli.status import status
from fieldstone.cli.synthesize import synthesize
from fieldstone.cli.tune import tune
from fieldstone.errors import FieldstoneError


class _Commands(TyperGroup):
    """Renders what the library raises: one line, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal of few letters shows the others as \\u2026
                stream.reconfigure(errors="backslashreplace")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here a broken pipe is still met quietly
            return result
        except FieldstoneError as error:
            from fieldstone.cli.output import clean

            print(f"error: {clean(str(error))}", file=sys.stderr)
            raise typer.Exit(1) from None
        except sqlite3.DatabaseError as error:
            print(
                f"error: this library cannot be used: {error}; make room if its disk is full, "
                "or delete library.db if it is damaged, and type: fieldstone build FOLDER --into WORKSPACE",
                file=sys.stderr,
            )
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\nstopped; type the same command to go on", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    build, add, remove, status, search, ask, synthesize, quality, tune, evaluate, benchmark, compare,
    review, rollback, move_store, serve, mcp, recipes, doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(grade, name="grade")
app.add_typer(keys, name="keys")
app.add_typer(federate, name="federate")


def _show_version(wanted: bool) -> None:
    if wanted:
        import fieldstone

        print(f"fieldstone {fieldstone.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    quiet: Quiet = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Turn a folder of documents into a question-answering system that cites its sources.

    Everything happens on this machine. Start with: fieldstone build FOLDER --into WORKSPACE
    """
    ctx.obj = quiet
