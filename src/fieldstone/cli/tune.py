"""`fieldstone tune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer

from fieldstone.cli.options import Force, Measure, Quiet, Set, WorkspacePath


def tune(
    ctx: typer.Context,
    workspace: WorkspacePath,
    part: Annotated[
        Literal["retriever", "reranker", "generator"] | None,
        typer.Option(
            help="Without it: what the recipe tunes; retriever and generator if it tunes none.",
            show_default=False,
        ),
    ] = None,
    measure: Measure = None,
    force: Force = False,
    changes: Set = None,
    quiet: Quiet = False,
) -> None:
    """Tune a workspace on its questions, and take what wins into use.

    A candidate goes into use only where it measurably wins on the dev questions; the report then measures
    before and after on the test questions. Stopped or killed, it goes on where it was. Settings are kept in
    the workspace.
    """
    from fieldstone import recipes
    from fieldstone.cli import progress
    from fieldstone.cli.options import questions_in, settings_of
    from fieldstone.cli.output import warn_if_unfinished
    from fieldstone.errors import WorkspaceError
    from fieldstone.examples import read_examples
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    questions, settings = questions_in(measure), settings_of(opened, changes)
    if not read_examples(opened.path / "examples" / "train.jsonl"):
        raise WorkspaceError(
            f"{workspace} holds no questions to tune on; type: fieldstone synthesize {quote(str(workspace))}"
        )
    library = opened.library()
    warn_if_unfinished(library)
    library.close()
    own = [step for step in recipes.load_recipe(settings.recipe).steps if step in recipes.TUNING]
    steps = [f"tune-{part}"] if part else own or ["tune-retriever", "tune-generator"]
    with progress.shown(quiet or ctx.obj) as told:
        built = recipes.run_steps(
            [*steps, "report"], opened, settings, told, questions=questions, force=force
        )
    show_tuning(built.made)


def show_tuning(made: Mapping[str, Mapping[str, Any]]) -> None:
    """What the tuning steps made: the table of the report and the verdicts, and what was skipped and why."""
    from fieldstone.cli.output import show
    from fieldstone.cli.table import show_before_after

    verdicts = [facts["verdict"] for facts in made.values() if "verdict" in facts]
    report, page = made.get("report", {}).get("report"), made.get("report", {}).get("page")
    content = (
        json.loads(Path(report).read_text(encoding="utf-8")) if report else {"systems": {}, "differences": {}}
    )
    # a report that was still fresh does not know of a candidate that was turned down since
    known = {verdict["candidate"]: verdict for verdict in (*content.get("verdicts", ()), *verdicts)}
    show_before_after({**content, "verdicts": list(known.values())})
    for step, facts in made.items():
        if isinstance(facts.get("skipped"), str):  # of files, a step says how many
            show(f"{step} was skipped: {facts['skipped']}", style="yellow")
        for note in facts.get("notes", ()):
            show(f"{step}: {note}", style="dim")
    if page:
        show(f"The report, with every question: {page}")
