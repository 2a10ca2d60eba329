"""When to refuse: what a system risks for each share of the questions that it answers.

A threshold on the confidence divides questions into answered and refused. Coverage is the share that is
answered, risk the share of wrong answers among them (El-Yaniv and Wiener, JMLR 2010; Geifman and El-Yaniv,
NeurIPS 2017). An answer is wrong when its F1 is below `lost.ENOUGH`; to a question that the documents do not
answer every answer is wrong.

A row is what an evaluation keeps of one question and system: `answers`, `answer`, `abstained`, `confidence`;
`unsaid`, what would have been answered had it not been refused; `abstain_below`, the threshold in use; and
`kind`. Without `unsaid` the curve ends at the first question whose answer nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.measures.lost import ENOUGH, tells
from fieldstone.evaluate.statistics.bootstrap import Estimate, Value, bootstrap_mean

Row = Mapping[str, Any]

WRONG = f"an answer whose F1 is below {ENOUGH}, and any answer where the documents hold none"

POINTS = 24
"""So many points of a curve are kept, at most; they lie at equal steps of coverage."""

DRAWS = 1000
"""Of the bootstrap, for each of these points."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A question with what a system would answer: `wrong` is None where nobody knows.

    `document` names what the question is about, `kind` what kind it is, empty where that is not known.
    """

    confidence: float
    wrong: bool | None
    answerable: bool
    refused: bool
    document: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """What follows if all is answered whose confidence is at least `threshold`, and the rest refused.

    `low` to `high` is the 95 % interval of the risk. `precision` is the share of the refusals that were right
    (the documents hold no answer), `recall` the share of such questions that were refused, `f1` their
    harmonic mean; None where nothing was refused, or there is no such question.
    """

    threshold: float
    coverage: float
    risk: float
    low: float
    high: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the system did: its threshold (None: not known), and where it falls, with 95 % intervals."""

    threshold: float | None
    coverage: Estimate | None
    risk: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """The curve of one system on n questions, `unanswerable` of which the documents do not answer.

    Of a system that ran several times, each run's answer counts as a question.

    `aurc` is the area under the whole curve, `excess` by how much it is above that of the best order of the
    same answers; both None where the curve ends early. `kinds`: of the unanswerable questions of each kind,
    the share that was refused.
    """

    n: int
    unanswerable: int
    aurc: float | None
    excess: float | None
    points: tuple[Point, ...]
    chosen: Chosen
    kinds: Mapping[str, Estimate]


def risk_coverage(rows: Iterable[Row]) -> RiskCoverage | None:
    """The curve of the rows of one system; None where it gives no confidence."""
    rows = [row for row in rows if row.get("confidence") is not None and tells(row)]
    if not rows:
        return None
    trials = [trial(row) for row in rows]
    thresholds = {row.get("abstain_below") for row in rows}
    known = _known(trials)
    whole = len(known) == len(trials)
    wrong = [bool(t.wrong) for t in known]
    area = aurc([t.confidence for t in known], wrong) if whole else None
    return RiskCoverage(
        n=len(trials),
        unanswerable=sum(not t.answerable for t in trials),
        aurc=area,
        excess=None if area is None else area - best_aurc(len(wrong), sum(wrong)),
        points=tuple(_point(trials, threshold) for threshold in _thresholds(known, len(trials))),
        chosen=_chosen(trials, thresholds.pop() if len(thresholds) == 1 else None),
        kinds=_kinds(trials),
    )


def trial(row: Row) -> Trial:
    """The row as a trial; its document, where it names none, is the question itself."""
    said = row.get("unsaid") if row["abstained"] else row["answer"]
    wrong: bool | None = True
    if row["answers"]:
        wrong = None if said is None else token_f1(said, row["answers"]) < ENOUGH
    return Trial(
        float(row["confidence"]),
        wrong,
        bool(row["answers"]),
        bool(row["abstained"]),
        row.get("source") or row["id"],
        row.get("kind", ""),
    )


def aurc(confidences: Sequence[float], wrong: Sequence[bool]) -> float:
    """Area under the risk-coverage curve: the mean of the risks at coverages 1/n, 2/n, ..., 1.

    (Geifman, Uziel and El-Yaniv, ICLR 2019.) Among equal confidences the order is left to chance, and this is
    its expected value. Raises ValueError without any question.
    """
    if not len(wrong):
        raise ValueError("no question has an answer and a confidence; a curve needs one at least")
    keys, places = np.unique(-np.asarray(confidences, dtype=np.float64), return_inverse=True)
    sizes = np.bincount(places, minlength=len(keys))
    errors = np.bincount(places, weights=np.asarray(wrong, dtype=np.float64), minlength=len(keys))
    return _mean_risk(np.cumsum(sizes), np.cumsum(errors))


def best_aurc(questions: int, wrong: int) -> float:
    """The least area that so many questions with so many wrong answers allow: all right ones stand first."""
    return _mean_risk(np.array([questions - wrong, questions]), np.array([0.0, wrong]))


def _mean_risk(ends: NDArray[np.int64], errors: NDArray[np.float64]) -> float:
    """Mean of errors / answered over 1 ... n answered; between the ends of groups errors grow evenly."""
    answered = np.arange(1, ends[-1] + 1)
    return float((np.interp(answered, np.r_[0, ends], np.r_[0.0, errors]) / answered).mean())


def _known(trials: Sequence[Trial]) -> list[Trial]:
    """The trials in order of confidence, down to the first whose answer nobody knows."""
    unknown = max((t.confidence for t in trials if t.wrong is None), default=float("-inf"))
    ordered = sorted(trials, key=lambda t: -t.confidence)
    return list(takewhile(lambda t: t.confidence > unknown, ordered))


def _thresholds(known: Sequence[Trial], questions: int) -> list[float]:
    """The confidences that answer about 1/POINTS, 2/POINTS, ... of the questions, as far as is known."""
    wanted = {-(-questions * step // POINTS) for step in range(1, POINTS + 1)}
    found = [known[min(place, len(known)) - 1].confidence for place in sorted(wanted) if known]
    return list(dict.fromkeys(found))


def _point(trials: Sequence[Trial], threshold: float) -> Point:
    answered = [t.confidence >= threshold for t in trials]
    risk = _risk(trials, answered, DRAWS)
    assert risk is not None  # the trial at the threshold is answered
    right = sum(not t.answerable and not its for t, its in zip(trials, answered, strict=True))
    refused, unanswerable = answered.count(False), sum(not t.answerable for t in trials)
    return Point(
        threshold,
        sum(answered) / len(trials),
        risk.value,
        risk.low,
        risk.high,
        right / refused if refused else None,
        right / unanswerable if unanswerable else None,
        2 * right / (refused + unanswerable) if unanswerable else None,
    )


def _risk(trials: Sequence[Trial], answered: Sequence[bool], draws: int) -> Estimate | None:
    values = [(float(its and bool(t.wrong)), float(its)) for t, its in zip(trials, answered, strict=True)]
    return bootstrap_mean(values, [t.document for t in trials], draws)


def _chosen(trials: Sequence[Trial], threshold: float | None) -> Chosen:
    documents = [t.document for t in trials]

    def mean(values: list[Value]) -> Estimate | None:
        return bootstrap_mean(values, documents)

    right = [float(t.refused and not t.answerable) for t in trials]
    asked = [float(not t.answerable) for t in trials]
    refused = [float(t.refused) for t in trials]
    both = zip(right, refused, asked, strict=True)
    return Chosen(
        threshold,
        mean([1 - its for its in refused]),
        _risk(trials, [not t.refused for t in trials], 2 * DRAWS),
        mean(list(zip(right, refused, strict=True))),
        mean(list(zip(right, asked, strict=True))),
        mean([(2 * hit, out + wanted) for hit, out, wanted in both]) if any(asked) else None,
    )


def _kinds(trials: Sequence[Trial]) -> dict[str, Estimate]:
    """Nothing where no kind is named: then `Chosen.recall` says it all."""
    unanswerable = [t for t in trials if not t.answerable]
    found = {}
    for kind in sorted({t.kind for t in unanswerable} if any(t.kind for t in unanswerable) else ()):
        its = [t for t in unanswerable if t.kind == kind]
        share = bootstrap_mean([float(t.refused) for t in its], [t.document for t in its])
        if share is not None:
            found[kind or "of no named kind"] = share
    return found
