"""What an evaluation found, in a terminal: systems, their differences, synthetic questions against yours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from fieldstone.cli.output import one_line, show

if TYPE_CHECKING:
    from fieldstone.evaluate.evaluation import Evaluation, QuestionSet
    from fieldstone.evaluate.statistics.agreement import Agreement
    from fieldstone.evaluate.statistics.bootstrap import Estimate
    from fieldstone.evaluate.statistics.significance import Test

RANKED = {True: "ranks alike", False: "ranks otherwise", None: ""}
"""Of the systems, by both sets of questions."""


def show_measured(evaluation: Evaluation) -> None:
    """Each set of questions: a block a system, a row a measure; then what is more than chance."""
    from fieldstone.evaluate.evaluation import QuestionSet

    for note in evaluation.notes:
        show(one_line(note))
    whole = QuestionSet(evaluation.systems, evaluation.differences, tests=evaluation.tests)
    for title, questions in (evaluation.sets or {"": whole}).items():
        if title:
            show()
            show(one_line(title).capitalize(), style="bold underline")
        for note in questions.notes:
            show(one_line(note))
        for name, estimates in questions.systems.items():
            show()
            show(name, style="bold")
            for measure, estimate in estimates.items():
                show(_row(measure, estimate), indent=2)
        show_differences(questions)
    if evaluation.agreement is not None:
        show_agreement(evaluation.agreement)


def show_differences(questions: QuestionSet) -> None:
    """Each pair of systems: a row a measure where they differ by more than chance, the others by name."""
    if questions.differences:
        show()
    pairs = len(questions.differences)
    for pair, measures in questions.differences.items():
        tests = questions.tests.get(pair, {})
        told, noise = _told(measures, tests)
        over = f" (p for {pairs} pairs, Holm)" if told and pairs > 1 else ""
        more = ": more than chance" if told else ": no difference is more than chance may make"
        show(Text.assemble((f"{pair}{more}", "bold"), (over, "dim")))
        for measure, difference in told.items():
            show(_row(measure, difference, tests.get(measure), "+"), indent=2)
        if noise:
            show(f"within the noise: {', '.join(noise)}", indent=2, style="dim")
    if any(_told(its, questions.tests.get(pair, {}))[1] for pair, its in questions.differences.items()):
        show("In brackets: about how many questions would tell.", style="dim")


def show_agreement(found: Agreement) -> None:
    """The last system, which is the whole one, on both sets; then what must be known of the synthetic one."""
    systems = list(dict.fromkeys(name for its in found.gaps.values() for name in its))
    if not systems:
        return
    show()
    show(Text.assemble((f"{found.synthetic.capitalize()} against {found.human}", "bold"), f": {systems[-1]}"))
    show(f"{'':<18}    human  synthetic      gap   95 % interval", indent=2, style="dim")
    for measure, its in found.gaps.items():
        if systems[-1] in its:
            pair = its[systems[-1]]
            values = (
                f"{measure:<18} {pair.human.value:8.3f} {pair.synthetic.value:10.3f} {pair.gap.value:+8.3f}"
            )
            ranking = found.rankings.get(measure)
            said = RANKED[ranking.alike] if ranking else ""
            interval = f"{pair.gap.low:+.3f} … {pair.gap.high:+.3f}"
            show(Text.assemble(values, (f"   {interval}   {said}", "dim")), indent=2)
    for warning in found.warnings:
        show(f"{warning[0].upper()}{warning[1:]}.", style="yellow")


def p_value(p: float) -> str:
    """`p = .031`, `p < .001`."""
    return "p < .001" if p < 0.0005 else f"p = {p:.3f}".replace("0.", ".")


def _told(
    differences: Mapping[str, Estimate], tests: Mapping[str, Test]
) -> tuple[dict[str, Estimate], list[str]]:
    """The differences that are more than chance, and the others with the questions that would tell."""
    from fieldstone.evaluate.report.findings import questions_needed
    from fieldstone.evaluate.statistics.significance import more_than_chance

    told, noise = {}, []
    for measure, difference in differences.items():
        if more_than_chance(difference, tests.get(measure)):
            told[measure] = difference
        else:
            needed = questions_needed(difference, tests.get(measure))
            noise.append(f"{measure} ({needed:,})" if needed else measure)
    return told, noise


def _row(measure: str, estimate: Estimate, test: Test | None = None, sign: str = "") -> Text:
    interval = f"{estimate.low:{sign}.3f} … {estimate.high:{sign}.3f}"
    said = f"{p_value(test.holm)}, {test.wins} won, {test.losses} lost" if test else f"n = {estimate.n}"
    return Text.assemble(f"{measure:<18} {estimate.value:>{sign}8.3f}   ", (f"{interval:<18} {said}", "dim"))
