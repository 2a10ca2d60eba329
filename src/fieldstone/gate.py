"""The gate: a candidate goes into use only if it measurably wins; do no harm.

The promise is that of two systems that are equally good, at most one candidate in twenty gets through by
luck, however few the documents (luck of one verdict: a caller that tries many candidates on the same
questions gives luck as many chances). The bootstrap interval alone does not keep it where documents are
few or one of them holds most of the questions, so an accepted candidate passes two tests:

1. the 95 % interval of the paired difference lies above 0 (`compare.paired_difference`), and
2. the difference is beyond what equals would show: exchange the two within whole documents, in every way
   there is, and at most 5 % of them may favour the candidate as much (`significance.chance_of_luck`; exact,
   whatever the sizes of the documents, because two equals can be exchanged). This test keeps the promise.

With fewer than six documents the caller's `finer` clusters (passages, sections) are exchanged and drawn in
their place. That keeps the promise for new questions about these documents, not for other documents; the
reason says so. So the questions should then be about all documents there are: divided by section, not by
document. (Two equals that each get on with other documents better: 1 in 4 gets through on 4 documents.)

Simulated with 500 pairs of equals a row, 300 questions each, systems that get on with each document alike
or differently: of 100, none gets through on 4 documents, 2.8 to 4.0 on 8, 2.2 to 4.8 on 20, 2.4 to 4.2 on
100; the interval alone lets 2.4 to 7.5 through.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from fieldstone.evaluate.statistics.bootstrap import (
    FEWEST,
    Estimate,
    Value,
    paired_difference,
    questions_to_tell,
)
from fieldstone.evaluate.statistics.significance import LUCK, chance_of_luck
from fieldstone.in_use import Part


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate decided about a candidate, and why.

    `difference` is candidate minus incumbent, None where the measure applies to no question. `forced`: taken
    although it was turned down, for what `reason` says. `questions_needed` is
    about how many such questions would have told, None where it is settled or more would not help. `guards`
    are the other measures that were looked at, each with its difference.
    """

    part: Part
    candidate: str
    incumbent: str
    measure: str
    difference: Estimate | None
    accepted: bool
    forced: bool
    questions_needed: int | None
    reason: str
    guards: tuple[tuple[str, Estimate], ...] = ()


def judge(
    part: Part,
    candidate: str,
    incumbent: str,
    measure: str,
    candidate_values: Sequence[Value],
    incumbent_values: Sequence[Value],
    clusters: Sequence[Hashable],
    *,
    finer: Sequence[Hashable] | None = None,
    guards: Mapping[str, tuple[Sequence[Value], Sequence[Value]]] | None = None,
    force: bool = False,
    seed: int = 0,
) -> Verdict:
    """Whether the candidate goes into use: values of both on the same questions, higher is better.

    `clusters` names each question's document, `finer` its passage or section (see above). `guards` holds the
    values of both (candidate first) under measures that must not fall: one whose interval lies below 0 turns
    the candidate down. `force` accepts it all the same, and the verdict keeps against what.
    """
    answered = zip(candidate_values, incumbent_values, clusters, strict=True)
    documents = len(
        {cluster for ours, theirs, cluster in answered if ours is not None and theirs is not None}
    )
    narrow = finer is not None and documents < FEWEST
    if finer is not None and narrow:
        clusters = finer
    difference = paired_difference(candidate_values, incumbent_values, clusters, seed=seed)
    looked_at = tuple(
        (name, estimate)
        for name, (ours, theirs) in (guards or {}).items()
        if (estimate := paired_difference(ours, theirs, clusters, seed=seed)) is not None
    )
    if difference is None:
        wins, needed, why = False, None, f"{measure} applies to none of the questions"
    else:
        luck = chance_of_luck(candidate_values, incumbent_values, clusters, seed=seed)
        wins, needed, why = _weigh(measure, difference, luck)
    harm = [_said(name, loss) for name, loss in looked_at if loss.beyond_noise and loss.value < 0]
    if harm:
        wins, why = False, f"{why}; it does harm: {' and '.join(harm)}"
    if narrow and difference is not None:
        few = "one document" if documents == 1 else f"{documents} documents"
        why += f"; the questions are about only {few}, so this says nothing about others"
    forced = force and not wins
    fate = "taken into use" if wins else "forced into use against the verdict" if forced else "turned down"
    reason = f"{candidate} was tried in the place of {incumbent} and {fate}: {why}"
    return Verdict(
        part, candidate, incumbent, measure, difference, wins or forced, forced, needed, reason, looked_at
    )


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as the journal and the reports keep it."""
    kept: dict[str, Any] = TypeAdapter(Verdict).dump_python(verdict, mode="json")
    return kept


def from_json(kept: Mapping[str, Any]) -> Verdict:
    """The verdict that `as_json` kept. Raises ValueError when it is none."""
    return TypeAdapter(Verdict).validate_python(kept)


def _weigh(measure: str, difference: Estimate, luck: float) -> tuple[bool, int | None, str]:
    """Whether the deciding measure accepts, how many questions would have told, and why."""
    found = _said(measure, difference)
    if difference.value == 0:
        return False, None, found
    if difference.value < 0:
        return False, None, f"{found}, and more questions would not help"
    needed = max(questions_to_tell(difference) or 0, difference.n + 1, FEWEST)
    about = f"about {needed:,}" if needed < 1_000_000 else "more than a million"
    if difference.n < FEWEST:
        return False, needed, f"{found}, but fewer than {FEWEST} questions tell nothing; {about} would have"
    if difference.low <= 0:
        return False, needed, f"{found}, which may be luck; {about} questions would have told"
    if luck > LUCK:
        why = f"but two equals would differ as much in {luck * 100:.1f} % of cases"
        most = f"and {LUCK * 100:.0f} % is the most allowed; questions about more documents would tell"
        return False, None, f"{found}, {why}, {most}"
    return True, None, found


def _said(measure: str, difference: Estimate) -> str:
    """A difference in words."""
    value, low, high = difference.value, difference.low, difference.high
    change = f"{abs(value):.3f} {'higher' if value > 0 else 'lower'}" if value else "the same"
    questions = "1 question" if difference.n == 1 else f"{difference.n:,} questions"
    return f"its {measure} is {change} (95 % interval {low:+.3f} to {high:+.3f}, {questions})"
