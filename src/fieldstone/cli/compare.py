"""`fieldstone compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fieldstone.cli.options import Json, Measure, Quiet, Set, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.evaluate.report import QuestionSet
    from fieldstone.recipes.compare import Comparison

MEASURES = (
    "recall@1",
    "MRR@10",
    "F1",
    "EM",
    "citation-accuracy",
    "refusal-recall",
    "over-refusal",
    "seconds",
)
"""Those that the terminal shows; the report has them all."""


def compare(
    ctx: typer.Context,
    workspace: WorkspacePath,
    recipes: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Recipes with commas between; the others are compared with the first.",
            show_default=False,
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Tune so many times with each recipe.")] = 3,
    measure: Measure = None,
    limit: Annotated[
        int,
        typer.Option(
            min=0,
            help="Ask only so many questions of each file, drawn by chance; 0: all, or 160 written ones.",
        ),
    ] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the tuned models, about 1 GB a run.")] = False,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run several recipes on one library and measure them with the same questions.

    The workspace itself is not changed: each recipe works on a copy of the library in WORKSPACE/compare,
    with the workspace's models and the same division of passages. Measured with the questions that the
    workspace wrote for its report, and with yours. Stopped or killed, it goes on where it was.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.options import questions_in
    from fieldstone.cli.output import one_line, show, show_json
    from fieldstone.evaluate.report import as_json, write_report
    from fieldstone.recipes.compare import compare as run
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    names = list(dict.fromkeys(name.strip() for name in recipes.split(",") if name.strip()))
    asked = questions_in(measure)
    with progress.shown(quiet or ctx.obj) as told:
        found = run(opened, names, range(seeds), changes or (), asked, limit=limit, keep=keep, progress=told)
    paths = write_report(opened.reports, found.evaluation)
    if json:
        show_json(as_json(found.evaluation) | {"report": {k: str(v) for k, v in paths._asdict().items()}})
        return
    for title, questions in found.evaluation.sets.items():
        _show_set(found, title, questions, names)
    for note in found.evaluation.notes:
        show(one_line(note))
    show()
    show(f"The report, with every question: {paths.html}")


def _show_set(found: Comparison, title: str, questions: QuestionSet, names: list[str]) -> None:
    """A block a measure, a line a recipe: mean, spread over the seeds, difference to the first."""
    from rich.text import Text

    from fieldstone.cli.output import show
    from fieldstone.evaluate.findings import LESS_IS_BETTER

    width = max(*(len(name) + 2 for name in names), *map(len, MEASURES))
    show(Text.assemble((title.capitalize(), "bold"), (f"  {questions.notes[0]}", "dim")))
    for measure in MEASURES:
        if not any(measure in its for its in questions.systems.values()):
            continue
        show()
        against = f"against {names[0]}, 95 % interval" if len(names) > 1 else ""
        show(Text(f"{measure:<{width}}   mean  {'seeds':<13}  {against}".rstrip(), "dim"))
        for name in names:
            mean = questions.systems[name].get(measure)
            if mean is None:
                continue
            row = Text(
                f"  {name:<{width}} {mean.value:.3f}  {_spread(found.spread(title, name, measure)):<13}"
            )
            change = questions.differences.get(f"{name} - {names[0]}", {}).get(measure)
            if change is not None:
                row.append(f"  {change.value:+.3f}  {change.low:+.3f} … {change.high:+.3f}")
                if change.beyond_noise:
                    better = (change.value > 0) != (measure in LESS_IS_BETTER)
                    row.append(*(("  better", "bold green") if better else ("  worse", "bold red")))
            row.rstrip()
            show(row)
    show()


def _spread(values: tuple[float, ...]) -> str:
    """The lowest and the highest; one run has none."""
    return f"{min(values):.3f} … {max(values):.3f}" if len(values) > 1 else ""
