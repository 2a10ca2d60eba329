"""`fieldstone evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Reports, Set

if TYPE_CHECKING:
    from fieldstone.evaluate.answers import Given
    from fieldstone.evaluate.report import Evaluation


def evaluate(
    ctx: typer.Context,
    questions: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Questions with their answers: JSON Lines, or SQuAD.", show_default=False
        ),
    ],
    workspace: Annotated[
        Path | None,
        typer.Argument(
            metavar="WORKSPACE",
            help="The folder that `fieldstone build` made; not needed with --answers or --endpoint.",
            show_default=False,
        ),
    ] = None,
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
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Answers of another system, a JSON object a line. May be given again.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask an OpenAI-compatible server: http://host:port/v1#model.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        bool, typer.Option("--context", help="Hand the endpoint the passages that the workspace finds.")
    ] = False,
    reports: Reports = None,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure a workspace, or any other system, on questions with known answers.

    Compares ways to search and to answer. Each number comes with its 95 % interval; a report is written
    into the workspace. Other systems are measured by --answers and --endpoint; with --systems, beside those
    of the workspace.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.options import settings_of
    from fieldstone.errors import QuestionsError, SettingsError
    from fieldstone.evaluate.any_system import Ours, asked_of_endpoint, evaluate_answers
    from fieldstone.evaluate.named import DEFAULTS, check_names
    from fieldstone.evaluate.questions import drawn, read_questions
    from fieldstone.evaluate.run import evaluate as run
    from fieldstone.recipes.compare import written_questions
    from fieldstone.workspace import open_workspace

    wanted = check_names(measures.split(",")) if measures else DEFAULTS
    others = bool(answers or endpoint)
    if workspace is None and (context or systems or synthetic or not others):
        raise SettingsError("name a WORKSPACE, or measure another system with --answers or --endpoint alone")
    if context and not endpoint:
        raise SettingsError("--context hands passages to an endpoint: give --endpoint URL with it")
    if synthetic and others:
        raise SettingsError("--synthetic is about the workspace: leave out --answers and --endpoint")
    opened = open_workspace(workspace) if workspace else None
    asked = drawn(read_questions(questions), limit, seed)
    written = written_questions(opened, limit) if opened and synthetic else []
    if synthetic and not written:
        raise QuestionsError(
            f"{workspace} has written no questions for its report; type: fieldstone synthesize {workspace}"
        )
    names = [name.strip() for name in systems.split(",")] if systems else []
    ours = Ours(opened, settings_of(opened, changes), tuple(names)) if opened else None
    into = reports or (opened.reports if opened else Path("reports"))
    given: list[Given] = []
    failed: tuple[str, ...] = ()
    kept: Path | None = None
    with progress.shown(quiet or ctx.obj) as told:
        if others or ours is None:
            if endpoint:
                given, failed, kept = asked_of_endpoint(
                    endpoint, asked, into, ours if context else None, told
                )
            evaluation = evaluate_answers(asked, answers or (), given, ours, told, wanted)
            evaluation = replace(evaluation, notes=(*evaluation.notes, *failed))
        else:
            evaluation = run(ours.workspace, ours.settings, asked, names, told, wanted, written)
    show_evaluation(evaluation, into, json=json)
    if kept and not failed:
        kept.unlink()


def show_evaluation(evaluation: Evaluation, into: Path, *, json: bool) -> None:
    """Write the report into a folder of `into`, and show what was found."""
    from fieldstone.cli.measured import show_measured
    from fieldstone.cli.output import show, show_json
    from fieldstone.evaluate.report import as_json, write_report

    paths = write_report(into, evaluation)
    if json:
        show_json(as_json(evaluation) | {"report": {k: str(v) for k, v in paths._asdict().items()}})
        return
    show_measured(evaluation)
    show()
    show(f"The report, with every question: {paths.html}")
