"""A follow-up question made self-contained, before anything is searched for.

A model that follows instructions rewrites it; what it writes is taken only if it keeps what the question says
and brings in nothing that nobody has said. In every other case, and with small models always, the rule of
`follow_up` carries over what the question leaves out: of 13 follow-ups about the example handbook the fused
search finds the answer among its first four passages for 4 as they were asked, for 4 as SmolLM2-135M writes
them anew from three examples, for 10 put behind the question before, and for 12 by the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldstone.models import Generator, reads_long
from fieldstone.prompts import NO_ANSWER, parse_rewritten, rewrite_prompt
from fieldstone.serve.follow_up import brought_in, carried_over, follows, language_asked, said

HISTORY_TOKENS = 512
"""Of the conversation so far, so much is looked at: the newest turns."""

ANSWER_CHARACTERS = 300
"""So much of an earlier answer is looked at."""

REWRITTEN_TOKENS = 96

WHOLE = 4
"""A question with so many words that say something, none of which points elsewhere, stands by itself."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that was asked before, and what was answered."""

    question: str
    answer: str = ""


def self_contained(
    generator: Generator, history: Sequence[Turn], question: str, budget: int = HISTORY_TOKENS
) -> str:
    """The question as one asks it who has not heard the conversation; one that stands by itself as it is.

    Of `history`, the oldest turn first, the newest turns count that fit into `budget` tokens. It is the same
    whatever else is asked at the time. Raises ModelError if the generator does.
    """
    turns = _newest(generator, history, budget)
    language = language_asked(question, *(asked for asked, _ in turns))
    if not turns or not (follows(question, language) or len(said(question, language)) < WHOLE):
        return question
    if reads_long(generator):
        prompt = rewrite_prompt(turns, question)
        written = parse_rewritten(generator.generate([prompt], max_tokens=REWRITTEN_TOKENS)[0].text)
        if faithful(written, turns, question):
            return written
    return carried_over(turns, question)


def faithful(written: str, turns: Sequence[tuple[str, str]], question: str) -> bool:
    """Whether a rewriting keeps what the question says, and says nothing that nobody has said."""
    known = " ".join([question, *(part for turn in turns for part in turn)])
    language = language_asked(question, *(asked for asked, _ in turns))
    return (
        bool(written)
        and not brought_in(question, written, language)
        and not brought_in(written, known, language)
    )


def _newest(generator: Generator, history: Sequence[Turn], budget: int) -> list[tuple[str, str]]:
    """Questions and answers of the newest turns that fit, the oldest first; a refusal is no answer."""
    turns = [
        (turn.question.strip(), "" if turn.answer == NO_ANSWER else turn.answer.strip()[:ANSWER_CHARACTERS])
        for turn in history
    ]
    counts = generator.count_tokens([f"{question}\n{answer}" for question, answer in turns])
    left, kept = budget, len(turns)
    while kept and counts[kept - 1] <= left:
        kept -= 1
        left -= counts[kept]
    return turns[kept:]
