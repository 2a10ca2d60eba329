"""`fieldstone compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fieldstone.cli.options import Json, Measure, Quiet, Set, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.evaluate.evaluation import QuestionSet
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
    from fieldstone.cli.measured import show_agreement
    from fieldstone.cli.options import questions_in
    from fieldstone.cli.output import one_line, show, show_json
    from fieldstone.evaluate.report.files import as_json, write_report
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
    if found.evaluation.agreement is not None:
        show_agreement(found.evaluation.agreement)
        show()
    for note in found.evaluation.notes:
        show(one_line(note))
    show()
    show(f"The report, with every question: {paths.html}")


def _show_set(found: Comparison, title: str, questions: QuestionSet, names: list[str]) -> None:
    """A block a measure: a line a recipe with its mean over seeds, then its difference from the first."""
    from rich.text import Text

    from fieldstone.cli.output import one_line, show

    against = f"against {names[0]}"
    width = max(len(against) + 2, *(len(name) for name in names), *map(len, MEASURES)) + 2
    first, *others = questions.notes
    show(Text.assemble((title.capitalize(), "bold"), (f"  {first}", "dim")))
    for note in others:
        show(one_line(note), style="dim")
    for measure in MEASURES:
        if not any(measure in its for its in questions.systems.values()):
            continue
        show()
        show(Text(f"{measure:<{width}}   mean  {'95 % interval':<17}  seeds from … to", "dim"))
        for name in names:
            mean = questions.systems[name].get(measure)
            if mean is None:
                continue
            row = Text(f"  {name:<{width - 2}} {mean.value:6.3f}  {f'{mean.low:.3f} … {mean.high:.3f}':<17}")
            row.append(f"  {_spread(found.spread(title, name, measure))}", "dim")
            row.rstrip()
            show(row)
            if name != names[0]:
                _show_difference(f"{name} - {names[0]}", f"{against:<{width - 4}}", measure, questions)
    show()


def _show_difference(pair: str, name: str, measure: str, questions: QuestionSet) -> None:
    from rich.text import Text

    from fieldstone.cli.measured import p_value
    from fieldstone.cli.output import show
    from fieldstone.evaluate.report.findings import LESS_IS_BETTER
    from fieldstone.evaluate.statistics.significance import more_than_chance

    change = questions.differences[pair].get(measure)
    test = questions.tests.get(pair, {}).get(measure)
    if change is None:
        return
    row = Text(f"    {name} {change.value:+6.3f}  {f'{change.low:+.3f} … {change.high:+.3f}':<17}")
    if more_than_chance(change, test):
        better = (change.value > 0) != (measure in LESS_IS_BETTER)
        row.append(*(("  better", "bold green") if better else ("  worse", "bold red")))
    else:
        row.append("  within the noise", "dim")
    if test is not None:
        row.append(f", {p_value(test.holm)}", "dim")
    show(row)


def _spread(values: tuple[float, ...]) -> str:
    """The lowest and the highest; one run has none."""
    return f"{min(values):.3f} … {max(values):.3f}" if len(values) > 1 else ""
