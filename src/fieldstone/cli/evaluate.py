"""`fieldstone evaluate`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fieldstone.cli.options import Json, Quiet, Set, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.evaluate.compare import Estimate
    from fieldstone.evaluate.report import Evaluation


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
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import show, show_json
    from fieldstone.evaluate.named import DEFAULTS, check_names
    from fieldstone.evaluate.questions import read_questions
    from fieldstone.evaluate.report import as_json, write_report
    from fieldstone.evaluate.run import evaluate as run
    from fieldstone.workspace import open_workspace

    wanted = check_names(measures.split(",")) if measures else DEFAULTS
    opened = open_workspace(workspace)
    asked = read_questions(questions)
    if 0 < limit < len(asked):
        drawn = set(random.Random(seed).sample(range(len(asked)), limit))
        asked = [question for place, question in enumerate(asked) if place in drawn]
    names = [name.strip() for name in systems.split(",")] if systems else []
    settings = settings_of(opened, changes)
    with progress.shown(quiet or ctx.obj) as told:
        evaluation = run(opened, settings, asked, names, told, wanted)
    paths = write_report(opened.reports, evaluation)
    if json:
        show_json(as_json(evaluation) | {"report": {k: str(v) for k, v in paths._asdict().items()}})
        return
    _render(evaluation)
    show()
    show(f"The report, with every question: {paths.html}")


def _render(evaluation: Evaluation) -> None:
    """A table: a row a measure, a column a system; then the differences that are more than chance."""
    from fieldstone.cli.output import one_line, show

    for note in evaluation.notes:
        show(one_line(note))
    for name, estimates in evaluation.systems.items():
        show()
        show(name, style="bold")
        _rows(estimates)
    told = {
        pair: {measure: e for measure, e in estimates.items() if e.beyond_noise and measure != "seconds"}
        for pair, estimates in evaluation.differences.items()
    }
    show()
    if not any(told.values()):
        show("No difference between these systems is more than chance may make.")
    for pair, estimates in told.items():
        if estimates:
            show(f"{pair}: more than chance", style="bold")
            _rows(estimates, sign="+")


def _rows(estimates: Mapping[str, Estimate], sign: str = "") -> None:
    from rich.text import Text

    from fieldstone.cli.output import show

    for measure, e in estimates.items():
        interval = f"{e.low:{sign}.3f} … {e.high:{sign}.3f}"
        row = Text.assemble(f"{measure:<18} {e.value:>{sign}8.3f}   ", (f"{interval:<18} n = {e.n}", "dim"))
        show(row, indent=2)
