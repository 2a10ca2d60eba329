"""A model as judge: is an answer right by the known answers, or by a passage?

Where the generator can score, the verdict is whichever of two words it holds likelier, so every verdict can
be read. Elsewhere it is written in one word, read strictly, and asked for again where it cannot be read. What
stays unread has no verdict: it is counted and shown, never taken for wrong.

How far to believe a judge is another question: see `fitness`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fieldstone.errors import ModelError
from fieldstone.evaluate.judge.remembered import remembered
from fieldstone.models import Generator, Prompt, reads_long
from fieldstone.progress import Progress, silent
from fieldstone.prompts import VERDICTS, grade_chat_prompt, grade_prompt, parse_verdict
from fieldstone.records import fingerprint

Way = Literal["score", "generate"]

BATCH = 8
"""Answers graded at once: what a kill can cost."""

TRIES = 3
"""How often a verdict is asked for that cannot be read; all but the first are drawn by chance."""

TEMPERATURE = 0.7

TOKENS = 256
"""Room for a model that thinks before it says its word."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer to be graded: by the known `answers`, or, where `passage` is given, by that alone."""

    question: str
    answer: str
    answers: tuple[str, ...] = ()
    passage: str = ""


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict; `right` is None where there is none, and `why` then says why not.

    `belief`: the share of "yes" in the probability of both words, None where the verdict was written.
    """

    right: bool | None
    belief: float | None = None
    tries: int = 1
    why: str = ""

    def __post_init__(self) -> None:
        if self.belief is not None and not 0 <= self.belief <= 1:
            raise ValueError(f"a belief of {self.belief}; it lies in 0..1")


def way_of_judging(generator: Generator) -> Way:
    """By score where the generator gives log-probabilities of a text that it did not write."""
    try:
        generator.score([Prompt(text="Is this right?")], [VERDICTS[True]])
    except ModelError:
        return "generate"
    return "score"


def grade(
    generator: Generator,
    claims: Sequence[Claim],
    path: Path | None = None,
    way: Way | None = None,
    progress: Progress = silent,
) -> list[Grade]:
    """A grade for each claim; those that stand in the file at `path` already are not asked for again."""
    if not claims:
        return []
    way = way or way_of_judging(generator)
    chat = way == "generate" and reads_long(generator)
    ask = grade_chat_prompt if chat else grade_prompt
    prompts = [ask(claim.question, claim.answer, claim.answers, claim.passage) for claim in claims]
    keys = [fingerprint("grade", generator.fingerprint, way, p.system, p.prefix, p.text) for p in prompts]

    def judge(places: Sequence[int]) -> list[Grade]:
        generator.forget()  # what was graded before must not show in what is graded now
        return decide(generator, [prompts[place] for place in places], way)

    return remembered(path, Grade, keys, judge, BATCH, "judge", progress)


def decide(generator: Generator, prompts: Sequence[Prompt], way: Way) -> list[Grade]:
    """The verdict on each prompt; one that is longer than the generator reads has none."""
    lengths = generator.count_tokens([p.system + p.prefix + p.text for p in prompts])
    room = 16 + (TOKENS if way == "generate" else 0)
    fits = [i for i, length in enumerate(lengths) if length + room <= generator.context_tokens]
    grades = [Grade(None, why="longer than the judge reads")] * len(prompts)
    by = _by_score if way == "score" else _by_word
    for i, its in zip(fits, by(generator, [prompts[i] for i in fits]), strict=True):
        grades[i] = its
    return grades


def _by_score(generator: Generator, prompts: Sequence[Prompt]) -> list[Grade]:
    """The likelier of the two words."""
    words = [VERDICTS[True], VERDICTS[False]]
    scores = generator.score([p for p in prompts for _ in words], words * len(prompts)) if prompts else []
    grades = []
    for yes, no in zip(scores[::2], scores[1::2], strict=True):
        lead = yes.logprob - no.logprob
        if math.isfinite(lead) and lead:
            grades.append(Grade(lead > 0, 1 / (1 + math.exp(-lead)) if lead > -700 else 0.0))
        else:
            grades.append(Grade(None, why="both words are equally likely"))
    return grades


def _by_word(generator: Generator, prompts: Sequence[Prompt]) -> list[Grade]:
    """The word that is written."""
    grades: list[Grade] = [Grade(None)] * len(prompts)
    left = list(range(len(prompts)))
    for attempt in range(TRIES):
        if not left:
            break
        replies = generator.generate(
            [prompts[i] for i in left],
            max_tokens=TOKENS,
            stop=() if prompts[left[0]].chat else ("\n",),
            temperature=TEMPERATURE if attempt else 0.0,
            seed=attempt,
        )
        for i, reply in zip(left, replies, strict=True):
            right = parse_verdict(reply.text)
            why = (
                "" if right is not None else f"its reply is no verdict: {' '.join(reply.text.split())[:60]!r}"
            )
            grades[i] = Grade(right, None, attempt + 1, why)
        left = [i for i in left if grades[i].right is None]
    return grades
