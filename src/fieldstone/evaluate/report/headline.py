"""What an evaluation comes to, in a sentence or two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fieldstone.evaluate.report.findings import (
    CHANCE,
    changes,
    estimate_of,
    per_cent,
    sets_of,
    short,
    tests_of,
    why,
)
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.evaluate.statistics.significance import more_than_chance

Content = Mapping[str, Any]

DECIDING = ("correctness", "F1", "EM", "nDCG@10", "recall@5")
"""What is told of the systems: the first of these that was measured, else whatever was."""


def headline(content: Content) -> str:
    """What tuning changed, or else which system is best, and how sure that is; empty without a measure."""
    return _tuned(content) or _compared(content)


def _tuned(content: Content) -> str:
    """What tuning changed; empty where nothing was tuned."""
    verdicts: Sequence[Content] = content.get("verdicts", ())
    taken = [verdict for verdict in verdicts if verdict["accepted"]]
    declined = [
        f"the {v['part']} candidate was turned down: {_declined(v)}" for v in verdicts if v not in taken
    ]
    clauses = "; ".join([*_taken(content, taken), *declined])
    return f"Tuning {'' if taken else 'changed nothing: '}{clauses}." if clauses else ""


def _compared(content: Content) -> str:
    """The best system under the deciding measure, the next after it, and how often it is wrong."""
    sets = sets_of(content)
    name, questions = next(iter(sets.items()))
    systems: Mapping[str, Content] = questions["systems"]
    measured = list(dict.fromkeys(measure for found in systems.values() for measure in found))
    if not measured:
        return ""
    measure = next((m for m in DECIDING if m in measured), measured[0])
    found = {system: Estimate(**its[measure]) for system, its in systems.items() if measure in its}
    best, *others = sorted(found, key=lambda system: -found[system].value)
    its = found[best]
    reach = f"(95 % interval {short(its.low)} to {short(its.high)}, {its.n:,} questions)"
    where = f" on the {name}" if len(sets) > 1 else ""
    if others:
        lead = f"Of {len(found)} systems {best} has the highest {measure}{where}"
        said = f"{lead}, {short(its.value)} {reach}; {_next(questions, measure, best, others[0], found)}."
    else:
        said = f"{best} reaches {measure} {short(its.value)}{where} {reach}."
    chosen = questions.get("coverage", {}).get(best, {}).get("chosen", {})
    if chosen.get("coverage") and chosen.get("risk"):
        answered, wrong = per_cent(chosen["coverage"]["value"]), per_cent(chosen["risk"]["value"])
        said += f" It answers {answered} of the questions, and {wrong} of these answers are wrong."
    return said


def _next(questions: Content, measure: str, best: str, second: str, found: Mapping[str, Estimate]) -> str:
    """The second system, and whether the difference may be chance."""
    pairs = (f"{best} - {second}", f"{second} - {best}")
    pair = next((pair for pair in pairs if measure in questions["differences"].get(pair, {})), None)
    said = f"{second} has {short(found[second].value)}"
    if pair is None:
        return said
    difference = Estimate(**questions["differences"][pair][measure])
    told = more_than_chance(difference, tests_of(questions, pair).get(measure))
    return f"{said}, a difference that {'is more than chance' if told else 'may be chance'}"


def _taken(content: Content, verdicts: Sequence[Content]) -> Iterator[str]:
    """A clause for each part in use, with what it brought on the first set of questions."""
    sets = sets_of(content)
    name, questions = next(iter(sets.items()))
    found = {change.measure: change for change in changes(questions)}
    where = f" on the {name}" if len(sets) > 1 else ""
    for i, verdict in enumerate(verdicts):
        verb = "forced" if verdict.get("forced") else "took"
        clause = f"{'it ' if i else ''}{verb} the {verdict['part']} into use"
        change, difference = found.get(verdict["measure"]), estimate_of(verdict.get("difference"))
        if change is not None and change.change is not None:
            values = f"{short(change.before.value)} to {short(change.after.value)}"
            by = short(change.change.value, signed=True)
            chance = "" if change.verdict else CHANCE
            said = f"{clause}: {change.measure} went from {values}{where} ({by}, {_interval(change.change)})"
            yield said + chance
        elif difference is not None:
            yield f"{clause}: {verdict['measure']} changed by {_by(difference)} where the gate looked"
        else:
            yield clause


def _declined(verdict: Content) -> str:
    """The reason in brief where the numbers are all of it, else as the gate wrote it."""
    difference = estimate_of(verdict.get("difference"))
    if difference is None or (difference.value > 0 and more_than_chance(difference)):
        return why(verdict).rstrip(".")
    return f"{verdict['measure']} changed by {_by(difference)}"


def _by(difference: Estimate) -> str:
    chance = "" if more_than_chance(difference) else CHANCE
    return f"{short(difference.value, signed=True)} ({_interval(difference)}){chance}"


def _interval(difference: Estimate) -> str:
    return f"95 % interval {short(difference.low, signed=True)} to {short(difference.high, signed=True)}"
