"""How far a judge agrees with people, and whether that is enough to show what it says.

Raw agreement flatters: where nine of ten answers are right, a judge that always says yes agrees in nine of
ten. Cohen's kappa (Educational and Psychological Measurement, 1960) takes off what chance alone would agree:
0 is no better than chance, 1 is full agreement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.judge.support import quoted
from fieldstone.evaluate.judge.verdict import Claim, Grade, grade
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.measures.lost import ENOUGH
from fieldstone.evaluate.questions import json_values
from fieldstone.evaluate.statistics.bootstrap import (
    Array,
    Estimate,
    bootstrap_mean,
    draw,
    paired_difference,
    tails,
)
from fieldstone.models import Generator
from fieldstone.progress import Progress, silent

LEAST_KAPPA = 0.4
"""Below is less than "moderate" agreement (Landis and Koch, Biometrics 1977). The interval must lie above."""

FEWEST_JUDGED = 30
"""With fewer, a judge may agree on all by luck, and an interval drawn from full agreement has no width."""

MOST_UNREAD = 0.1
"""A judge that gives no verdict on more than one answer in ten leaves out too many to stand for the rest."""

SHOWN = 5

FORM = '{"question": "…", "answers": ["…"], "answer": "…", "correct": 1}'
FORM_OF_SUPPORT = '{"question": "…", "answer": "…", "passage": "…", "supported": 1}'


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer that people judged: by the known answers, or by the passage that its claim holds.

    `about` is the document, or else the question, that it is about.
    """

    claim: Claim
    right: bool
    about: str


@dataclass(frozen=True, slots=True)
class Grader:
    """Who is to judge, by what it is tried, and the kappa that it must be above.

    Tried on answers with their passages, it is to judge whether passages support answers.
    """

    generator: Generator
    judged: Sequence[JudgedAnswer]
    least: float = LEAST_KAPPA


@dataclass(frozen=True, slots=True)
class Fitness:
    """How a judge did on answers that people judged.

    `graded` answers have a verdict, `unread` ones none. `kappa`, `agreement` (the share with the same
    verdict) and `bias` (the share that the judge calls right minus the share that people do) are of the
    graded ones, with intervals clustered by document or question. `by_words` is the kappa of shared words on
    the same answers: of token F1 from .5 on, or of a passage's holding the answer word for word. A judge that
    does no better adds nothing. `why` says why it is not `fit`. `support`: it was tried on whether passages
    support answers, and not on whether answers are right.
    """

    judge: str
    graded: int
    unread: int
    kappa: Estimate | None
    agreement: Estimate | None
    bias: Estimate | None
    by_words: Estimate | None
    fit: bool
    why: str = ""
    support: bool = False


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement beyond chance of two graders; None where both give everything the same grade."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} grades and {len(b)}: there must be two of each answer")
    if not a:
        return None
    size, first, second = len(a), Counter(a), Counter(b)
    same = sum(x == y for x, y in zip(a, b, strict=True)) / size
    chance = sum(count * second[grade] for grade, count in first.items()) / size**2
    return None if chance == 1 else (same - chance) / (1 - chance)


def kappa_estimate(
    a: Sequence[bool],
    b: Sequence[bool],
    clusters: Sequence[Hashable],
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate | None:
    """Cohen's kappa of two graders who say yes or no, with the interval of `bootstrap_mean`.

    A draw in which both give everything the same grade has no kappa and is left out.
    """
    value = cohen_kappa(a, b)
    if value is None:
        return None
    tables = _tables(a, b, clusters)
    kappas = _kappas(draw(tables, samples, seed))
    low, high = np.quantile(kappas[np.isfinite(kappas)], tails(level, len(tables)))
    return Estimate(value, float(low), float(high), len(a))


def read_judged(path: Path) -> list[JudgedAnswer]:
    """Answers that people judged, one JSON object a line: question, answers, answer, correct.

    Or question, answer, passage, supported: whether the passage says so. `correct` and `supported` are true,
    false or a grade in 0..1, of which .5 and more count as yes. `source`, if there, names the document that
    the question is about. Raises QuestionsError, which names up to five bad lines.
    """
    judged, problems = [], []
    for place, entry in json_values(path):
        try:
            judged.append(_judged(entry))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise QuestionsError(
            f"{path}: {len(problems)} of {len(problems) + len(judged)} judged answers cannot be read; "
            f"write each as {FORM} or {FORM_OF_SUPPORT}:\n  {shown}{more}"
        )
    if not judged:
        raise QuestionsError(f"{path} holds no judged answer; write one a line, such as {FORM}")
    return judged


def examine(grader: Grader, path: Path | None = None, progress: Progress = silent) -> Fitness:
    """Let the judge grade what people judged, and say whether it may grade anything else."""
    grades = grade(grader.generator, [item.claim for item in grader.judged], path, progress=progress)
    return fitness(grader.generator.name, grades, grader.judged, grader.least)


def fitness(
    judge: str, grades: Sequence[Grade], judged: Sequence[JudgedAnswer], least: float = LEAST_KAPPA
) -> Fitness:
    """What these grades say of the judge that gave them; `least` is the kappa that it must be above.

    All of them are about answers, or all about passages.
    """
    pairs = [(g.right, item) for g, item in zip(grades, judged, strict=True) if g.right is not None]
    its, people = [right for right, _ in pairs], [item.right for _, item in pairs]
    about = [item.about for _, item in pairs]
    same = [float(x == y) for x, y in zip(its, people, strict=True)]
    words = [_by_words(item.claim) for _, item in pairs]
    kappa, by_words = kappa_estimate(its, people, about), kappa_estimate(words, people, about)
    support = any(item.claim.passage for item in judged)
    why = _unfit(len(pairs), len(judged) - len(pairs), its, kappa, by_words, least, support)
    return Fitness(
        judge,
        len(pairs),
        len(judged) - len(pairs),
        kappa,
        bootstrap_mean(same, about),
        paired_difference([float(x) for x in its], [float(y) for y in people], about),
        by_words,
        not why,
        why,
        support,
    )


def in_words(found: Fitness) -> str:
    """The sentence that stands beside every figure of the judge."""
    role = "judge of support" if found.support else "judge"
    instead = "" if found.support else " The string measures stand alone."
    if found.kappa is None or found.agreement is None or found.bias is None:
        return f"{found.judge} is no {role} here: {found.why}.{instead}"
    lead = round(100 * found.bias.value)
    leaning = (
        f"{abs(lead)} in 100 {'more' if lead > 0 else 'fewer'} than people do"
        if lead
        else "as many as people do"
    )
    unread = f"; {found.unread} of its verdicts could not be read" if found.unread else ""
    things = "citations" if found.support else "answers"
    measured = (
        f"on {found.graded} {things} that people judged it agrees with them in "
        f"{100 * found.agreement.value:.0f} % (Cohen's kappa {found.kappa.value:.2f}, 95 % interval "
        f"{found.kappa.low:.2f} to {found.kappa.high:.2f}) and calls {leaning} "
        f"{'supported' if found.support else 'right'}{unread}"
    )
    if found.fit:
        return f"{'Support' if found.support else 'Graded'} by {found.judge}: {measured}."
    return f"{found.judge} is no {role} here: {found.why}; {measured}.{instead}"


def _unfit(
    graded: int,
    unread: int,
    its: Sequence[bool],
    kappa: Estimate | None,
    by_words: Estimate | None,
    least: float,
    support: bool,
) -> str:
    """Why a judge is turned down; nothing if it is not."""
    if graded + unread < FEWEST_JUDGED:
        return f"{graded + unread} judged answers do not tell; give {FEWEST_JUDGED} at least"
    if unread > MOST_UNREAD * (graded + unread):
        return f"{unread} of its {graded + unread} verdicts could not be read"
    if kappa is None:
        return "people and judge give every answer the same grade; add answers that people judged otherwise"
    if len(set(its)) == 1:
        words = ("unsupported", "supported") if support else ("wrong", "right")
        return f"it calls every answer {words[its[0]]}"
    if kappa.low <= least:
        low = f"its agreement with people may be as low as kappa {kappa.low:.2f}"
        return f"{low}, and {least:.2f} is the least allowed"
    if by_words is not None and kappa.value <= by_words.value:
        return (
            f"its kappa of {kappa.value:.2f} is not above the {by_words.value:.2f} that shared words alone "
            f"reach ({'the answer stands in the passage' if support else f'token F1 of {ENOUGH} or more'})"
        )
    return ""


def _by_words(claim: Claim) -> bool:
    """The verdict of shared words."""
    if claim.passage:
        return quoted(claim.answer, claim.passage)
    return bool(claim.answers) and token_f1(claim.answer, claim.answers) >= ENOUGH


def _tables(a: Sequence[bool], b: Sequence[bool], clusters: Sequence[Hashable]) -> Array:
    """How often each cluster has no-no, no-yes, yes-no, yes-yes: (clusters, 4).

    With one cluster each answer stands for itself.
    """
    names: dict[Hashable, int] = {}
    index = np.array([names.setdefault(cluster, len(names)) for cluster in clusters])
    if len(names) == 1:
        index = np.arange(len(a))
    tables = np.zeros((int(index.max()) + 1, 4))
    np.add.at(tables, (index, 2 * np.array(a, dtype=int) + np.array(b, dtype=int)), 1.0)
    return tables


def _kappas(tables: Array) -> Array:
    """Kappa of each row of counts; not a number where it has none."""
    no_no, no_yes, yes_no, yes_yes = tables.T
    size = tables.sum(axis=1)
    chance = ((yes_no + yes_yes) * (no_yes + yes_yes) + (no_no + no_yes) * (no_no + yes_no)) / size**2
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas: Array = np.where(chance < 1, ((no_no + yes_yes) / size - chance) / (1 - chance), np.nan)
    return kappas


def _judged(entry: object) -> JudgedAnswer:
    """Raises ValueError, which says what is wrong with the entry."""
    if isinstance(entry, ValueError):
        raise entry
    if not isinstance(entry, dict):
        raise ValueError("this is no JSON object")
    texts = {name: entry.get(name) or "" for name in ("question", "answer", "passage", "source")}
    by_passage = "passage" in entry
    given = "supported" if by_passage else "correct"
    answers, grade = [] if by_passage else entry.get("answers") or [], entry.get(given)
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f'"{name}" must be a string, not {text!r:.60}')
        if name in ("question", "answer", *(["passage"] if by_passage else [])) and not text.strip():
            raise ValueError(f'"{name}" is missing or empty')
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise ValueError(f'"answers" must be a list of strings, not {answers!r:.60}')
    if not answers and not by_passage:
        raise ValueError('"answers" is missing or empty: the right answers, as people wrote them')
    if not isinstance(grade, bool | int | float) or not 0 <= grade <= 1:
        raise ValueError(f'"{given}" must be true, false or a grade from 0 to 1, not {grade!r:.60}')
    claim = Claim(texts["question"], texts["answer"], tuple(answers), texts["passage"])
    return JudgedAnswer(claim, grade >= 0.5, texts["source"] or texts["question"])
