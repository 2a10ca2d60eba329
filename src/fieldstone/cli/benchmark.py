"""`fieldstone benchmark`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Reports, Set

RECIPE = "guide"
"""What a benchmark's library is built by where nothing else is asked for: no tuning."""


def benchmark(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Its format: squad, xquad, jsquad, beir, mmlu, webquestions, localrqa or csv.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Its file or folder, as published.", show_default=False)
    ],
    workspace: Annotated[
        Path | None,
        typer.Option(
            metavar="WORKSPACE",
            help="Ask over this workspace, or keep here what is built from the benchmark's own passages.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How its own passages become a system. Without it: guide, which tunes nothing.",
            show_default=False,
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The generator. Without it: the recipe's.", show_default=False),
    ] = None,
    systems: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="What to compare, as `fieldstone evaluate` has it.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Ask only so many questions, drawn by chance; 0 asks all.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Which questions chance draws.")] = 0,
    reports: Reports = None,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure on a published benchmark, read from local files.

    Its own passages are indexed first, in a folder that is deleted again or in the workspace. Where it has
    none, the questions are asked over the workspace, or of the generator alone. Damaged entries are left
    out and counted.
    """
    from fieldstone import recipes
    from fieldstone.cli import progress
    from fieldstone.cli.evaluate import show_evaluation
    from fieldstone.errors import SettingsError
    from fieldstone.evaluate.benchmarks import read_benchmark
    from fieldstone.evaluate.questions import drawn
    from fieldstone.recipes.benchmark import ask_generator, ask_workspace, build_from, is_own
    from fieldstone.workspace import Workspace, create_workspace, open_workspace

    read = read_benchmark(name.casefold(), data)
    asked = drawn(read.questions, limit, seed)
    given = Workspace(workspace) if workspace else None
    own = is_own(given, read)
    if given and not own:
        open_workspace(given.path)  # says so where there is none
        if recipe:
            raise SettingsError(f"{given.path} is built already; leave out --recipe, or name a new folder")
    stored = given.stored_settings() if given else {}
    flags = [*(changes or ()), *([f"models.generator={generator}"] if generator else [])]
    settings = recipes.choose_settings(recipe or str(stored.get("recipe", RECIPE)), stored, flags=flags)
    names = [system.strip() for system in systems.split(",")] if systems else []
    with progress.shown(quiet or ctx.obj) as told, tempfile.TemporaryDirectory() as folder:
        if given is None and not own:
            evaluation = ask_generator(read, settings, asked, told)
        else:
            place = given or Workspace(Path(folder))
            if own:
                build_from(read, create_workspace(place.path), settings, told)
            evaluation = ask_workspace(read, place, settings, asked, names, told)
    show_evaluation(evaluation, reports or (given.reports if given else Path("reports")), json=json)
