"""Measures by name: what one question put to one system gives under `recall@5`, `F1`, `latency-p95`.

`ranking`, `answering` and `overlap` define them; here each gets the name by which it is asked for and shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

from fieldstone.errors import SettingsError
from fieldstone.evaluate.measures import answering, overlap, ranking
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.statistics.bootstrap import Value

DEFAULTS = (
    "recall@1",
    "recall@5",
    "recall@10",
    "MRR@10",
    "nDCG@10",
    "EM",
    "F1",
    "correctness",
    "citation-accuracy",
    "citation-support",
    "faithfulness",
    "refusal-precision",
    "refusal-recall",
    "refusal-F1",
    "over-refusal",
    "seconds",
)
"""What is measured where nothing else is asked for."""

QUANTILES = {"latency-p50": 0.5, "latency-p95": 0.95}
"""Measures whose value over questions is a quantile of theirs, not a mean."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question put to one system.

    `relevant`: the passages that hold the evidence, one group a piece of it. `ranked`: ids of the passages
    found, best first; None if not known. `answer`: None if the system only searched. `cited`: ids of the
    cited passages, one a citation. `support`: how far each citation supports the answer, 0..1; None if not
    looked at. `correct`: the grade that a judge or a person gave, 0..1, and 0 for an abstention from an
    answerable question; None if nobody did. `seconds`: what the question took. `grades`: how relevant a
    passage is, by its id; empty: all that are relevant are so alike.
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
    found: dict[str, Value] = {}
    for name in names:
        kind, _, k = name.partition("@")
        measure = MEASURES[f"{kind}@k" if k else name]
        if measure.known(case):
            found[name] = measure.value(case, int(k or 0))
    return found


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names as they are spelled here, each once, in their order; an unknown one is refused."""
    return tuple(dict.fromkeys(_spelled(name.strip()) for name in names))


def depth(name: str) -> int:
    """How many passages the measure looks at: the k of `recall@k`, 0 for one that looks at none."""
    return int(name.partition("@")[2] or 0)


def _spelled(name: str) -> str:
    for known in MEASURES:
        form = re.escape(known).replace("@k", "@([1-9][0-9]{0,3})")
        if fits := re.fullmatch(form, name, re.IGNORECASE):
            return known.replace("@k", f"@{fits[1]}") if "@k" in known else known
    alike = get_close_matches(name, MEASURES, 1)
    raise SettingsError(
        f"there is no measure {name!r}{f'; did you mean {alike[0]}?' if alike else ''} "
        f"(known: {', '.join(MEASURES)}; k is a number from 1 to 9999, as in recall@5)"
    )


class Measure(NamedTuple):
    """Whether a case knows enough for the measure, and its value (the number is the k of `recall@k`)."""

    known: Callable[[Case], bool]
    value: Callable[[Case, int], Value]


def _ranking(measure: Callable[[int, Sequence[str], Sequence[Collection[str]]], Value]) -> Measure:
    """Of what a search found."""
    return Measure(lambda c: c.ranked is not None, lambda c, k: measure(k, c.ranked or (), c.relevant))


def _wording(measure: Callable[[str, Collection[str]], float]) -> Measure:
    """Of an answer's wording, for the questions that have an answer to compare it with."""
    return Measure(
        _answered, lambda c, _: measure(c.said, c.question.answers) if c.question.answerable else None
    )


def _citing(measure: Callable[..., Value]) -> Measure:
    return Measure(_answered, lambda c, _: measure(c.cited, c.relevant, abstained=c.abstained))


def _supported(measure: Callable[..., Value]) -> Measure:
    return Measure(
        lambda c: c.support is not None, lambda c, _: measure(c.support or (), abstained=c.abstained)
    )


def _refusing(measure: Callable[..., Value]) -> Measure:
    return Measure(_answered, lambda c, _: measure(abstained=c.abstained, answerable=c.question.answerable))


def _answered(case: Case) -> bool:
    return case.abstained or case.answer is not None


def _mrr(k: int, ranked: Sequence[str], relevant: Sequence[Collection[str]]) -> float | None:
    return ranking.reciprocal_rank(ranked, relevant, k)


def _ndcg(case: Case, k: int) -> float | None:
    """Without grades every relevant passage has grade 1."""
    grades = case.grades or {id_: 1.0 for group in case.relevant for id_ in group}
    return ranking.ndcg_at(k, case.ranked or (), grades)


_CORRECT = Measure(lambda c: c.correct is not None, lambda c, _: c.correct)
_SECONDS = Measure(lambda c: c.seconds is not None, lambda c, _: c.seconds)

MEASURES = {
    "recall@k": _ranking(ranking.recall_at),
    "precision@k": _ranking(ranking.precision_at),
    "MRR@k": _ranking(_mrr),
    "MAP@k": _ranking(ranking.average_precision_at),
    "nDCG@k": Measure(lambda c: c.ranked is not None, _ndcg),
    "EM": _wording(answering.exact_match),
    "F1": _wording(answering.token_f1),
    "ROUGE-L": _wording(overlap.rouge_l),
    "BLEU": _wording(overlap.bleu),
    "correctness": _CORRECT,
    "citation-accuracy": _citing(answering.citation_accuracy),
    "citation-precision": _citing(answering.citation_precision),
    "citation-recall": _citing(answering.citation_recall),
    "citation-support": _supported(answering.citation_support),
    "faithfulness": _supported(answering.faithfulness),
    "refusal-precision": _refusing(answering.refusal_precision),
    "refusal-recall": _refusing(answering.refusal_recall),
    "refusal-F1": _refusing(answering.refusal_f1),
    "over-refusal": _refusing(answering.over_refusal),
    "seconds": _SECONDS,
    "latency-p50": _SECONDS,
    "latency-p95": _SECONDS,
}
"""Every measure there is, by name."""
