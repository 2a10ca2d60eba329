"""Ratings from 0 to 10 by the generator itself (ALoFTRAG's steps 1 and 3).

A model of 135M parameters gives nearly the same number to everything: see docs/results.md before using them.
"""

from __future__ import annotations

from collections.abc import Sequence

from fieldstone.models import Generator, Prompt
from fieldstone.prompts import parse_rating, rate_answer_prompt, rate_passage_prompt, rate_question_prompt

TOKENS = 20


def rate_passages(generator: Generator, texts: Sequence[str]) -> list[float | None]:
    """How much each text tells; None where the reply is no number."""
    return _rate(generator, [rate_passage_prompt(text) for text in texts])


def rate_answers(
    generator: Generator, texts: Sequence[str], questions: Sequence[str], answers: Sequence[str]
) -> list[float | None]:
    """The lower of how answerable each question is and how right its answer; None if either is no number."""
    asked = list(zip(texts, questions, strict=True))
    first = _rate(generator, [rate_question_prompt(text, question) for text, question in asked])
    prompts = [rate_answer_prompt(t, q, a) for (t, q), a in zip(asked, answers, strict=True)]
    second = _rate(generator, prompts)
    return [None if a is None or b is None else min(a, b) for a, b in zip(first, second, strict=True)]


def _rate(generator: Generator, prompts: Sequence[Prompt]) -> list[float | None]:
    replies = generator.generate(prompts, max_tokens=TOKENS, stop=("\n",))
    return [parse_rating(reply.text) if reply.finished else None for reply in replies]
