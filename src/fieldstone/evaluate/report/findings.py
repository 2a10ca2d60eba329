"""What an evaluation found, in numbers and words that page and terminal share.

All of it reads the plain JSON that `report.as_json` makes, so that an old report can be shown again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fieldstone.evaluate.statistics.bootstrap import FEWEST, Estimate, questions_to_tell, unpaired_difference
from fieldstone.evaluate.statistics.significance import Test, more_than_chance

BEFORE, AFTER = "before", "after"
"""The names of the two systems of a build that tunes itself."""

LESS_IS_BETTER = frozenset({"over-refusal", "seconds", "latency-p50", "latency-p95"})

CHANCE = ", which may be chance"

Content = Mapping[str, Any]


class Change(NamedTuple):
    """A measure before and after; `change` is None where the two could not be paired."""

    measure: str
    before: Estimate
    after: Estimate
    change: Estimate | None
    test: Test | None = None

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or nothing where the change may be chance."""
        if self.change is None or not more_than_chance(self.change, self.test):
            return ""
        return "better" if (self.change.value > 0) != (self.measure in LESS_IS_BETTER) else "worse"


def sets_of(content: Content) -> dict[str, Content]:
    """Name -> set of questions; an evaluation on one file of questions is one set without a name."""
    return content.get("sets") or {"": content}


def changes(questions: Content) -> list[Change]:
    """What was measured before and after on a set of questions; nothing if it holds other systems."""
    systems = questions["systems"]
    pair = f"{AFTER} - {BEFORE}"
    paired, tested = questions["differences"].get(pair, {}), tests_of(questions, pair)
    before, after = systems.get(BEFORE, {}), systems.get(AFTER, {})
    return [
        Change(
            name,
            Estimate(**before[name]),
            Estimate(**after[name]),
            estimate_of(paired.get(name)),
            tested.get(name),
        )
        for name in before
        if name in after
    ]


def tests_of(questions: Content, pair: str) -> dict[str, Test]:
    """Measure -> test of a pair of systems; nothing in a report of before there were tests."""
    return {name: Test(**its) for name, its in questions.get("tests", {}).get(pair, {}).items()}


def gaps(content: Content) -> dict[str, dict[str, Estimate]]:
    """Each set of questions after the first: how much higher the tuned system measures on it, per measure.

    The sets share no question: the difference is unpaired.
    """
    sets = {name: {c.measure: c.after for c in changes(its)} for name, its in sets_of(content).items()}
    (_, first), *others = sets.items()
    found = {
        name: {m: unpaired_difference(its[m], first[m]) for m in first if m in its} for name, its in others
    }
    return {name: measures for name, measures in found.items() if measures}


def decision(verdict: Content) -> str:
    """What the gate did with a candidate."""
    if not verdict["accepted"]:
        return "turned down"
    return "forced into use" if verdict.get("forced") else "taken into use"


def why(verdict: Content) -> str:
    """The gate's reason, without the names and the decision that stand before it."""
    reason = str(verdict["reason"])
    return reason.partition(f" {decision(verdict)}: ")[2] or reason


def seen(verdict: Content) -> dict[str, Estimate]:
    """Measure -> candidate minus incumbent: the one that decided, then those that must not fall."""
    deciding = {verdict["measure"]: verdict["difference"]} if verdict.get("difference") else {}
    return {name: Estimate(**values) for name, values in (*deciding.items(), *verdict.get("guards", ()))}


def verdict_in_words(pair: str, estimate: Estimate, test: Test | None = None) -> str:
    """Which of a pair such as `fused - dense` is higher, or how many questions would tell."""
    if more_than_chance(estimate, test):
        return f"{pair.partition(' - ')[0]} is {'higher' if estimate.value > 0 else 'lower'}"
    if estimate.value == 0:
        return "no difference"
    needed = questions_needed(estimate, test)
    return f"within the noise; about {needed:,} questions would tell" if needed else "within the noise"


def questions_needed(estimate: Estimate, test: Test | None = None) -> int | None:
    """About how many questions would tell a difference within the noise; None where no number helps."""
    needed = questions_to_tell(estimate) if test is None else test.questions
    if needed is None or needed > 1000 * estimate.n:
        return None
    return round_up(max(needed, estimate.n + 1, FEWEST))


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals below 10, none above; a minus sign of its own width."""
    return _signed(f"{abs(value):.3f}" if abs(value) < 10 else f"{abs(value):,.0f}", value, signed)


def short(value: float, *, signed: bool = False) -> str:
    """Two decimals, as in a sentence: `.64`, `+.07`, `1.00`."""
    return _signed(f"{abs(value):.2f}", value, signed).replace("0.", ".", 1)


def per_cent(value: float) -> str:
    """A share as in a sentence: `64 %`, `7.5 %`."""
    share = 100 * value
    return f"{share:.1f}".removesuffix(".0") + " %" if share < 9.95 else f"{share:.0f} %"


def p_value(p: float) -> str:
    """`p = 0.034`, or below what three decimals show."""
    return f"p = {number(p)}" if p >= 0.0005 else "p < 0.001"


def round_up(count: int) -> int:
    """To two figures: an estimate of this kind has no more."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step


def estimate_of(values: Content | None) -> Estimate | None:
    """The estimate that JSON keeps; None where there is none."""
    return Estimate(**values) if values else None


def _signed(text: str, value: float, signed: bool) -> str:
    sign = "−" if value < 0 else "+" if signed else ""
    return text if float(text.replace(",", "")) == 0 else sign + text
