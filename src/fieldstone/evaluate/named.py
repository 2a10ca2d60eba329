"""Measures by name: what one question put to one system gives under `recall@5`, `F1`, `latency-p95` and so on.

`measures` defines them; here each gets the name under which it is asked for and shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fieldstone.errors import SettingsError
from fieldstone.evaluate import measures
from fieldstone.evaluate.compare import Value
from fieldstone.evaluate.questions import Question

DEFAULTS = (
    "recall@1",
    "recall@5",
    "recall@10",
    "MRR@10",
    "nDCG@10",
    "EM",
    "F1",
    "citation-accuracy",
    "refusal-precision",
    "refusal-recall",
    "over-refusal",
    "seconds",
)
"""What is measured where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question put to one system.

    `relevant`: the passages that hold the evidence, one group a piece of it. `ranked`: ids of the passages
    found, best first; None if not known. `answer`: None if the system only searched. `cited`: ids of the
    cited passages, one a citation. `support`: how far each citation supports the answer, 0..1; None if not
    looked at. `correct`: the grade that a judge or a person gave, 0..1. `seconds`: what the question took.
    `grades`: how relevant a passage is, where some are more so than others; without them all are alike.
    """

    question: Question
    relevant: tuple[frozenset[str], ...] = ()
    ranked: tuple[str, ...] | None = None
    answer: str | None = None
    abstained: bool = False
    cited: tuple[str, ...] = ()
    support: tuple[float, ...] | None = None
    correct: float | None = None
    seconds: float | None = None
    grades: Mapping[str, float] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The answer as the string measures see it: an abstention is the empty prediction."""
        return "" if self.abstained or self.answer is None else self.answer


def values(case: Case, names: Sequence[str]) -> dict[str, Value]:
    """Each named measure that applies to what the case knows, in the order of the names.

    None: it applies to such cases, but not to this question, as EM does not to an unanswerable one.
    """
    return {name: value for name in names for value in _measured(case, name)}


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names as they are spelled here, each once, in their order; an unknown one is refused."""
    return tuple(dict.fromkeys(_known(name.strip()) for name in names))


def depth(name: str) -> int:
    """How many passages must be found for the measure: the k of `recall@k`, 0 for one that has none."""
    return int(name.partition("@")[2] or 0)


def _known(name: str) -> str:
    for known in (*RANKING, *ANSWER, *JUDGED, *TIME):
        fits = re.fullmatch(re.escape(known).replace("@k", "@([1-9][0-9]{0,3})"), name, re.IGNORECASE)
        if fits:
            return known.replace("@k", f"@{fits[1]}") if fits.groups() else known
    listed = ", ".join((*RANKING, *ANSWER, *JUDGED, *TIME))
    raise SettingsError(f"there is no measure {name!r}; known are {listed} (k: a number, such as recall@5)")


def _measured(case: Case, name: str) -> list[Value]:
    """The measure's value, in a list; an empty list where the case does not know enough."""
    if name in TIME:
        return [] if case.seconds is None else [case.seconds]
    if "@" in name:
        kind, _, k = name.partition("@")
        if case.ranked is not None and case.grades and kind == "nDCG":
            return [measures.ndcg_at(int(k), case.ranked, case.grades)]
        return [] if case.ranked is None else [RANKING[f"{kind}@k"](int(k), case.ranked, case.relevant)]
    if case.answer is None and not case.abstained:
        return []
    if name in JUDGED:
        needed, value = JUDGED[name]
        return [value(case)] if needed(case) else []
    return [ANSWER[name](case)]


def _ndcg(k: int, ranked: Sequence[str], relevant: Sequence[frozenset[str]]) -> float | None:
    return measures.ndcg_at(k, ranked, dict.fromkeys((id_ for group in relevant for id_ in group), 1.0))


def _mrr(k: int, ranked: Sequence[str], relevant: Sequence[frozenset[str]]) -> float | None:
    return measures.reciprocal_rank(ranked, relevant, k)


def _of_answerable(measure: Callable[[str, Sequence[str]], float]) -> Callable[[Case], Value]:
    """A string measure, for the questions that have an answer to compare with."""
    return lambda case: measure(case.said, case.question.answers) if case.question.answerable else None


def _refusal(measure: Callable[..., Value]) -> Callable[[Case], Value]:
    return lambda case: measure(abstained=case.abstained, answerable=case.question.answerable)


def _citation(measure: Callable[..., Value]) -> Callable[[Case], Value]:
    return lambda case: measure(case.cited, case.relevant, abstained=case.abstained)


RANKING: dict[str, Callable[[int, Sequence[str], Sequence[frozenset[str]]], Value]] = {
    "recall@k": measures.recall_at,
    "MRR@k": _mrr,
    "nDCG@k": _ndcg,
}
"""Of what a search found: (k, ranked, relevant) -> value."""

ANSWER: dict[str, Callable[[Case], Value]] = {
    "EM": _of_answerable(measures.exact_match),
    "F1": _of_answerable(measures.token_f1),
    "citation-accuracy": _citation(measures.citation_accuracy),
    "refusal-precision": _refusal(measures.refusal_precision),
    "refusal-recall": _refusal(measures.refusal_recall),
    "over-refusal": _refusal(measures.over_refusal),
}
"""Of an answer, or of an abstention from one."""

JUDGED: dict[str, tuple[Callable[[Case], bool], Callable[[Case], Value]]] = {}
"""Of an answer that somebody or something has looked at: whether it was, and the value."""

TIME = ("seconds",)
"""Of the time a question took."""
