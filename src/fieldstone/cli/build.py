"""`fieldstone build`."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from fieldstone.cli.options import Force, Measure, Questions, Quiet, Ray, Set

if TYPE_CHECKING:
    from fieldstone.recipes import Built
    from fieldstone.workspace import Workspace


def build(
    ctx: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", exists=True, help="The folder with your documents.", show_default=False
        ),
    ],
    into: Annotated[
        Path,
        typer.Option(
            metavar="WORKSPACE", help="The folder for what is built; made if missing.", show_default=False
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="See `fieldstone recipes`. Without it: the workspace's, or else fieldstone.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="tiny|small|base",
            help="How large the models are. Without it: the workspace's, or else the recipe's first.",
            show_default=False,
        ),
    ] = None,
    questions: Questions = None,
    measure: Measure = None,
    force: Force = False,
    changes: Set = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out files and folders such as '*.tmp' or drafts. May be given again.",
            show_default=False,
        ),
    ] = None,
    ray: Ray = None,
    quiet: Quiet = False,
) -> None:
    """Build a workspace from a folder, or bring it up to date.

    It reads the documents, writes questions about them, tunes the models on those, and keeps what
    measurably wins; `--recipe guide` leaves the models as they are. Run it again whenever the documents
    change: only what changed is done. Stopped or killed, it goes on where it was. Settings and exclusions
    are kept in the workspace.
    """
    from fieldstone import recipes
    from fieldstone.cli import progress
    from fieldstone.cli.options import machines, questions_in
    from fieldstone.cli.output import err, show
    from fieldstone.cli.synthesize import in_numbers
    from fieldstone.cli.tune import show_tuning
    from fieldstone.doctor import describe_model
    from fieldstone.workspace import Workspace, create_workspace

    began = time.perf_counter()
    # settings and questions first: a slip in them makes no folder
    stored = Workspace(into).stored_settings()
    settings = recipes.choose_settings(recipe, stored, flags=changes or (), size=size)
    teach, only_measure = questions_in(questions), questions_in(measure)
    if exclude:
        patterns = tuple(dict.fromkeys((*settings.read.exclude, *exclude)))
        read = settings.read.model_copy(update={"exclude": patterns})
        settings = settings.model_copy(update={"read": read})
    workspace = create_workspace(into)
    quiet = quiet or ctx.obj
    if not quiet:
        show(f"encoder {describe_model(settings.models.encoder, settings.models)}", style="dim", to=err)
    with machines(ray) as (loader, spread), progress.shown(quiet) as told:
        built = recipes.run(
            recipes.load_recipe(settings.recipe), folder, workspace, settings, told,
            teach=teach, questions=only_measure, force=force, loader=loader, spread=spread,
        )  # fmt: skip
    summarise(workspace, built, time.perf_counter() - began)
    if "synthesize" in built.made:
        show()
        show(in_numbers(built.made["synthesize"]))
    show_tuning(built.made)
    show()
    show(f'Ask it something:  fieldstone ask {quote(str(into))} "…"')


def summarise(workspace: Workspace, built: Built, seconds: float) -> None:
    """What a build or an addition did, what it could not read, what it left out."""
    from fieldstone.cli.output import count, show, show_reasons

    added = built.added
    library = workspace.library()
    counts, files = library.counts(), library.files()
    library.close()
    worked = [
        added.read,
        added.unread,
        added.removed,
        built.made.get("split", {}).get("passages"),
        built.made.get("index", {}).get("embedded"),
    ]
    if any(worked):
        show(
            f"{count(len(added.read), 'file')} read, {added.unchanged:,} unchanged, "
            f"{len(added.removed):,} removed; {seconds:.1f} s"
        )
    else:
        show(f"Nothing has changed; {seconds:.1f} s")
    show(f"The workspace holds {count(counts.documents, 'document')} in {count(counts.passages, 'passage')}.")
    more = f"fieldstone status {quote(str(workspace.path))} --files"
    unread = [(source, file.reason) for source, file in files.items() if file.reason]
    show_reasons("Not read", unread, more)
    show_reasons("Read in part", added.warnings, more)
    show_reasons("Skipped", added.skipped, more, style="default")
