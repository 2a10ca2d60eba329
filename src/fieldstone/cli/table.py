"""Before and after tuning in a terminal: a row a measure, then what the gate decided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fieldstone.cli.output import one_line, out, show

if TYPE_CHECKING:
    from fieldstone.evaluate.report.findings import Change
    from fieldstone.evaluate.statistics.bootstrap import Estimate

WIDTH = 80
"""The table with its drawing; a narrower terminal gets the numbers alone."""

PLOT = 17
"""Characters of the drawing, odd so that 0 has a place of its own."""

WHOLE = 1.0
"""A change past this is on another scale, such as seconds, and is not drawn."""

COLOURS = {"better": "green", "worse": "red", "": "dim"}


def show_before_after(content: Mapping[str, Any], to: Console = out) -> None:
    """Show an evaluation that `report.as_json` made plain: each set of questions, then the verdicts.

    Shows nothing of an evaluation whose systems are not called before and after.
    """
    from fieldstone.evaluate.report.findings import changes, sets_of

    drawn = not to.is_terminal or to.width >= WIDTH
    for name, questions in sets_of(content).items():
        found = changes(questions)
        if found:
            count = max(change.before.n for change in found)
            title = Text.assemble(
                (one_line(name).capitalize() or "Before and after tuning", "bold"),
                (f"  n = {count:,}", "dim"),
            )
            show(title, to=to)
            for row in _table(found, drawn):
                to.print(row, soft_wrap=True)
            show(to=to)
    _verdicts(content.get("verdicts", ()), to)


def _table(found: Sequence[Change], drawn: bool) -> Iterator[Text]:
    reach = _reach(found)
    scale = f"{f'−{_short(reach)}':<{PLOT // 2}}0{f'+{_short(reach)}':>{PLOT // 2}}" if drawn else ""
    yield Text(f"{'measure':<17} before after  change  95 % interval  {scale}".rstrip(), "dim")
    for change in found:
        colour = COLOURS[change.verdict]
        row = Text(f"{one_line(change.measure, 17):<17} ")
        row.append(f"{_number(change.before.value):>6} {_number(change.after.value):>5}")
        if change.change is not None:
            its = change.change
            row.append(f"  {_number(its.value, '+'):>6}", colour)
            row.append(f"  {_number(its.low, '+'):>6} {_number(its.high, '+'):>6}", "dim")
            row.append("  ")
            if drawn:
                told = bool(change.verdict)
                row.append(_plot(its, reach, colour, told) if _span(its) <= WHOLE else " " * PLOT)
            row.append(f" {change.verdict}", f"bold {colour}")
        row.rstrip()
        yield row


def _plot(estimate: Estimate, reach: float, colour: str, told: bool) -> Text:
    """The interval as a line with a dot, hollow where the change may be chance."""

    def at(value: float) -> int:
        return round((value / reach + 1) / 2 * (PLOT - 1))

    cells = [" "] * PLOT
    cells[PLOT // 2] = "┊"
    low, high = at(estimate.low), at(estimate.high)
    cells[low : high + 1] = "─" * (high - low + 1)
    cells[at(estimate.value)] = "●" if told else "○"
    drawn = Text("".join(cells), colour)
    drawn.highlight_words(["┊"], "not bold dim default")
    return drawn


def _verdicts(verdicts: Sequence[Mapping[str, Any]], to: Console) -> None:
    from fieldstone.evaluate.report.findings import decision, why

    for verdict in verdicts:
        mark, colour = ("✓", "green") if verdict["accepted"] else ("✗", "yellow")
        made = (f"{verdict['part']} {decision(verdict)}", f"bold {colour}")
        line = Text.assemble(made, f": {one_line(why(verdict))}")
        rows = line.wrap(to, max(to.width - 2, 20)) if to.is_terminal else [line]
        for number, row in enumerate(rows):
            row.rstrip()
            to.print(Text.assemble((" " if number else mark, colour), " ", row), soft_wrap=True)


def _reach(found: Sequence[Change]) -> float:
    """Half the scale that all changes within `WHOLE` are drawn on, in steps of a twentieth."""
    spans = [_span(change.change) for change in found if change.change is not None]
    return math.ceil(20 * max([0.05, *(span for span in spans if span <= WHOLE)]) - 1e-9) / 20


def _span(estimate: Estimate) -> float:
    return max(abs(estimate.low), abs(estimate.high))


def _number(value: float, sign: str = "") -> str:
    """`.712`, `+.071`, `1.000`, `12.4`: what fits six characters."""
    digits = 3 if abs(value) < 9.9995 else 1 if abs(value) < 999.95 else 0
    text = f"{abs(value):.{digits}f}"
    lead = "" if float(text) == 0 else "−" if value < 0 else sign
    return lead + _short_zero(text)


def _short(value: float) -> str:
    return _short_zero(f"{value:.2f}")


def _short_zero(text: str) -> str:
    return text[1:] if text.startswith("0.") else text
