"""`fieldstone grade make` and `fieldstone grade read`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldstone.cli.options import Json

if TYPE_CHECKING:
    from fieldstone.evaluate.grading.grades import Graded
    from fieldstone.evaluate.grading.krippendorff import Alpha

grade = typer.Typer(
    help="Let people grade answers: write a page for them, read what they said.", no_args_is_help=True
)

PAGE = "grading.html"


@grade.command()
def make(
    report: Annotated[
        Path,
        typer.Argument(
            metavar="REPORT",
            help="A report's folder, its rows.jsonl, or a workspace: its newest report with answers.",
            show_default=False,
        ),
    ],
    into: Annotated[Path, typer.Option(metavar="FILE", help="The page, or the folder it goes into.")] = Path(
        PAGE
    ),
    systems: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Whose answers, with commas between. Two are compared side by side. Without it: all.",
            show_default=False,
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Grade each answer by itself, of two systems too.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="So many questions, drawn by chance; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Which questions chance draws.")] = 0,
    workspace: Annotated[
        Path | None,
        typer.Option(
            metavar="WORKSPACE",
            help="Where the cited passages are; the report's own, if it lies in one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one page on which people grade answers: correct, helpful, supported, harmless.

    The page needs no server and no network; send it to as many graders as you like. It does not say which
    system gave which answer: the key beside it does. Keep the key, `fieldstone grade read` needs it.
    """
    from fieldstone.atomic import write_text
    from fieldstone.cli.output import count, show
    from fieldstone.errors import GradesError
    from fieldstone.evaluate.grading.sheet import make_sheet, read_rows, render_sheet, workspace_of, write_key
    from fieldstone.workspace import open_workspace

    names = [name.strip() for name in systems.split(",") if name.strip()] if systems else []
    sheet = make_sheet(read_rows(report), names, limit, seed, each=each)
    if not sheet.items:
        raise GradesError(f"{' and '.join(sheet.systems)} say the same to every question: nothing to grade")
    place = workspace or workspace_of(report)
    library = open_workspace(place).library() if place is not None else None
    into = into / PAGE if into.is_dir() else into
    key = into.with_suffix(".key.json")
    write_key(key, sheet)
    write_text(into, render_sheet(sheet, library))
    if library is None:
        show(
            "note: the report lies in no workspace, so the page shows quotes alone; name one with --workspace"
        )
    show(f"{into}: {count(len(sheet.items), 'pair' if sheet.pairs else 'answer')} to grade")
    if sheet.alike:
        show(f"{count(len(sheet.alike), 'question')} left out, where both say the same: they count as ties")
    show(f"Keep {key} to yourself: it says which system is which.")
    show(f"When the graders have sent their files:  fieldstone grade read {key} grades-*.json")


@grade.command()
def read(
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="The ….key.json beside the page.", show_default=False)
    ],
    grades: Annotated[
        list[Path], typer.Argument(metavar="GRADES...", help="What graders exported.", show_default=False)
    ],
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the report goes; a folder `graded` beside the key.",
            show_default=False,
        ),
    ] = None,
    judged: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write what people found right and wrong as JSON Lines, to check a judge by.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read the graders' files: say which system is better, and how far the graders agree.

    Damaged and foreign files are named and left out.
    """
    from dataclasses import asdict

    from fieldstone.atomic import write_json
    from fieldstone.cli.output import show, show_json, show_reasons
    from fieldstone.errors import GradesError
    from fieldstone.evaluate.grading.grades import assess, judged_lines, read_grades
    from fieldstone.evaluate.grading.sheet import read_key
    from fieldstone.evaluate.report.files import as_json, write_report
    from fieldstone.examples import write_lines

    sheet = read_key(key)
    graders, left_out = read_grades(grades, sheet)
    if not graders:
        reasons = "; ".join(f"{path}: {why}" for path, why in left_out)
        raise GradesError(f"no file holds grades of this page: {reasons}")
    if judged and sheet.pairs:
        raise GradesError(
            "answers that were compared were not called right or wrong; make a page with --each"
        )
    found = assess(sheet, graders)
    paths = write_report(into or key.parent / "graded", found.evaluation)
    content: dict[str, Any] = {
        "graders": {grader.name: len(grader.grades) for grader in graders},
        "items": len(sheet.items),
        "agreement": {name: asdict(its) for name, its in found.agreement.items()},
        "disagreements": [asdict(its) for its in found.disagreements],
        "remarks": [dict(zip(("grader", "question", "remark"), its, strict=True)) for its in found.remarks],
        "left_out": {str(path): why for path, why in left_out},
    }
    write_json(paths.json.with_name("grades.json"), content)
    if judged:
        write_lines(judged, judged_lines(sheet, graders))
    if json:
        report = {name: str(path) for name, path in paths._asdict().items()}
        show_json(as_json(found.evaluation) | content | {"report": report})
        return
    _render(found)
    show_reasons("Left out", [(str(path), why) for path, why in left_out])
    show()
    if judged:
        show(f"Right and wrong as people see it: {judged}")
    show(f"The report: {paths.html}")


def _render(found: Graded) -> None:
    from rich.text import Text

    from fieldstone.cli.output import SHOWN, one_line, show

    for note in found.evaluation.notes:
        show(one_line(note))
    for system, estimates in found.evaluation.systems.items():
        show()
        show(system, style="bold")
        for name, estimate in estimates.items():
            interval = f"{estimate.low:.3f} … {estimate.high:.3f}"
            said = (f"{interval:<15} n = {estimate.n}", "dim")
            show(Text.assemble(f"{name:<11} {estimate.value:>8.3f}   ", said), indent=2)
    for pair, tests in found.evaluation.tests.items():
        show()
        show(pair, style="bold")
        for name, test in tests.items():
            difference = found.evaluation.differences[pair][name]
            counts = f"{test.wins} better, {test.ties} tied, {test.losses} worse, p = {test.holm:.3f}"
            show(Text.assemble(f"{name:<11} {difference.value:>+8.3f}   ", (counts, "dim")), indent=2)
    if any(its.ordinal.units for its in found.agreement.values()):
        show()
        show("Agreement: Krippendorff's alpha with its 95 % interval", style="bold")
        show(f"{'':<11} {'ordinal':<22} {'nominal':<22} graded by two", indent=2, style="dim")
        for name, its in found.agreement.items():
            show(
                f"{name:<11} {_said(its.ordinal):<22} {_said(its.nominal):<22} {its.ordinal.units}", indent=2
            )
    if found.disagreements:
        show()
        show(f"Where graders stand at opposite ends ({len(found.disagreements)})", style="bold")
        for apart in found.disagreements[:SHOWN]:
            words = ", ".join(f"{who}: {what}" for who, what in apart.said.items())
            beside = (f"  {apart.criterion}: {one_line(words)}", "dim")
            show(Text.assemble(one_line(apart.question), beside), indent=2)
        if len(found.disagreements) > SHOWN:
            show(f"and {len(found.disagreements) - SHOWN} more in grades.json", indent=2)


def _said(alpha: Alpha) -> str:
    """Alpha and its interval, as far as it is known."""
    if alpha.value is None:
        return "not known"
    interval = "" if alpha.low is None or alpha.high is None else f"  {alpha.low:.2f} … {alpha.high:.2f}"
    return f"{alpha.value:.2f}{interval}"
