"""`fieldstone evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Reports, Set

if TYPE_CHECKING:
    from fieldstone.evaluate.evaluation import Evaluation
    from fieldstone.evaluate.judge.fitness import Grader
    from fieldstone.evaluate.systems.answers import Given
    from fieldstone.models import Reranker
    from fieldstone.settings import Settings


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
    support: Annotated[
        bool,
        typer.Option("--support", help="Let the generator say how far each citation supports its answer."),
    ] = False,
    entailment: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The same by a cross-encoder for natural language inference.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A model that grades answers and citations, if it agrees with people: a folder, "
            "http://host:port/v1#model, embedded:smollm2. Needs --judged.",
            show_default=False,
        ),
    ] = None,
    judged: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Answers that people judged, to try the judge on: JSON Lines of question, answers, answer, "
            "correct; and of question, answer, passage, supported, if it is to judge citations.",
            show_default=False,
        ),
    ] = None,
    least_kappa: Annotated[
        float, typer.Option(min=0, max=1, help="How far a judge must agree with people to be heard.")
    ] = 0.4,
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
    from fieldstone.evaluate.measures.named import DEFAULTS, check_names
    from fieldstone.evaluate.questions import drawn, read_questions
    from fieldstone.evaluate.run import evaluate as run
    from fieldstone.evaluate.systems.any_system import Ours, asked_of_endpoint, evaluate_answers
    from fieldstone.models import load_reranker
    from fieldstone.recipes import choose_settings
    from fieldstone.recipes.compare import written_questions
    from fieldstone.workspace import open_workspace

    wanted = check_names(measures.split(",")) if measures else DEFAULTS
    others = bool(answers or endpoint)
    if workspace is None and (context or systems or synthetic or not others):
        raise SettingsError("name a WORKSPACE, or measure another system with --answers or --endpoint alone")
    if context and not endpoint:
        raise SettingsError("--context hands passages to an endpoint: give --endpoint URL with it")
    if others and (synthetic or support or entailment):
        raise SettingsError(
            "--synthetic, --support and --entailment are about the workspace; leave out --answers, --endpoint"
        )
    opened = open_workspace(workspace) if workspace else None
    asked = drawn(read_questions(questions), limit, seed)
    written = written_questions(opened, limit) if opened and synthetic else []
    if synthetic and not written:
        raise QuestionsError(
            f"{workspace} has written no questions for its report; type: fieldstone synthesize {workspace}"
        )
    names = [name.strip() for name in systems.split(",")] if systems else []
    settings = settings_of(opened, changes) if opened else None
    grader, of_support = _graders(
        judge, judged, least_kappa, settings or choose_settings(None, {}, flags=changes or ())
    )
    if others and of_support:
        raise SettingsError(f"{judged} has passages, but only a workspace's citations can be judged by them")
    looked: bool | Reranker | Grader = of_support or support
    if entailment is not None:
        looked = load_reranker(entailment, device=settings.models.device if settings else "auto")
    ours = Ours(opened, settings, tuple(names)) if opened and settings else None
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
            evaluation = evaluate_answers(asked, answers or (), given, ours, told, wanted, grader)
            evaluation = replace(evaluation, notes=(*evaluation.notes, *failed))
        else:
            evaluation = run(
                ours.workspace, ours.settings, asked, names, told, wanted, written,
                grader=grader, support=looked,
            )  # fmt: skip
    show_evaluation(evaluation, into, json=json)
    if kept and not failed:
        kept.unlink()


def show_evaluation(evaluation: Evaluation, into: Path, *, json: bool) -> None:
    """Write the report into a folder of `into`, and show what was found."""
    from fieldstone.cli.measured import show_measured
    from fieldstone.cli.output import show, show_json
    from fieldstone.evaluate.report.files import as_json, write_report

    paths = write_report(into, evaluation)
    if json:
        show_json(as_json(evaluation) | {"report": {k: str(v) for k, v in paths._asdict().items()}})
        return
    show_measured(evaluation)
    show()
    show(f"The report, with every question: {paths.html}")


def _graders(
    name: str | None, judged: Path | None, least: float, settings: Settings
) -> tuple[Grader | None, Grader | None]:
    """The judge that the options name, to grade answers and to grade citations, with what it is tried on."""
    if name is None and judged is None:
        return None, None
    from fieldstone.errors import SettingsError
    from fieldstone.evaluate.judge.fitness import Grader, read_judged
    from fieldstone.models import load_generator

    if name is None or judged is None:
        raise SettingsError(
            "--judge NAME and --judged FILE go together: a judge is heard only if it agrees with people; "
            "write some answers and whether each is right into a file, 30 at least, and give both"
        )
    tried = read_judged(judged)
    models = settings.models
    generator = load_generator(
        name, device=models.device, threads=models.threads or None, engine=models.engine
    )
    by_passage = [item for item in tried if item.claim.passage]
    by_answers = [item for item in tried if not item.claim.passage]
    return (
        Grader(generator, by_answers, least) if by_answers else None,
        Grader(generator, by_passage, least) if by_passage else None,
    )
