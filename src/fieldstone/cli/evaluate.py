"""`fieldstone evaluate`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Set, WorkspacePath


def evaluate(
    ctx: typer.Context,
    workspace: WorkspacePath,
    questions: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Questions with their answers: JSON Lines, or SQuAD.", show_default=False
        ),
    ],
    systems: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What to compare, with commas between: dense, lexical, fused; +likelihood or "
            "+cross-encoder to rerank; /one-by-one, /together, /mixture, /fid or /search to answer. "
            "Without it: the searches, then all that the settings say.",
            show_default=False,
        ),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What to measure, with commas between, in this order: recall@5, nDCG@10, F1, ROUGE-L, BLEU, "
            "latency-p95 and more; a wrong name shows them all.",
            show_default=False,
        ),
    ] = None,
    synthetic: Annotated[
        bool,
        typer.Option(
            "--synthetic",
            help="Ask the questions that the workspace wrote for its report as well, at most 160, and say "
            "whether they tell what yours tell.",
        ),
    ] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="Ask only so many questions, drawn by chance; 0 asks all.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Which questions chance draws.")] = 0,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure a workspace on questions with known answers.

    Compares ways to search and to answer. Each number comes with its 95 % interval; a report is written
    into the workspace.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.measured import show_measured
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import show, show_json
    from fieldstone.errors import QuestionsError
    from fieldstone.evaluate.named import DEFAULTS, check_names
    from fieldstone.evaluate.questions import read_questions
    from fieldstone.evaluate.report import as_json, write_report
    from fieldstone.evaluate.run import evaluate as run
    from fieldstone.recipes.compare import written_questions
    from fieldstone.workspace import open_workspace

    wanted = check_names(measures.split(",")) if measures else DEFAULTS
    opened = open_workspace(workspace)
    asked = read_questions(questions)
    if 0 < limit < len(asked):
        drawn = set(random.Random(seed).sample(range(len(asked)), limit))
        asked = [question for place, question in enumerate(asked) if place in drawn]
    written = written_questions(opened, limit) if synthetic else []
    if synthetic and not written:
        raise QuestionsError(
            f"{workspace} has written no questions for its report; type: fieldstone synthesize {workspace}"
        )
    names = [name.strip() for name in systems.split(",")] if systems else []
    settings = settings_of(opened, changes)
    with progress.shown(quiet or ctx.obj) as told:
        evaluation = run(opened, settings, asked, names, told, wanted, written)
    paths = write_report(opened.reports, evaluation)
    if json:
        show_json(as_json(evaluation) | {"report": {k: str(v) for k, v in paths._asdict().items()}})
        return
    show_measured(evaluation)
    show()
    show(f"The report, with every question: {paths.html}")
