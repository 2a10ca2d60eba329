"""Questions that the documents do not answer, made from ones that they do: near misses.

A name, number or date of the question is exchanged for another of its kind from elsewhere in the documents
(as SQuAD 2.0's writers often did: Rajpurkar et al. 2018, table 1). The passage still looks right and is not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from fieldstone.quotes import find_words
from fieldstone.synthesize.terms import Kind, Term, terms


def altered(
    question: str, passage: str, pool: Mapping[Kind, Sequence[str]], chance: random.Random
) -> str | None:
    """The question with one term exchanged for one that the passage does not hold; None if it has none.

    `pool` holds terms of the documents by kind.
    """
    own = [term for term in terms(question) if find_words(term.text, passage)]
    chance.shuffle(own)
    for term in own:
        others = [text for text in pool.get(term.kind, ()) if _fits(text, term)]
        chance.shuffle(others)
        for other in others[:20]:
            if not find_words(other, passage) and not find_words(other, question):
                return question[: term.start] + other + question[term.start + len(term.text) :]
    return None


def _fits(text: str, term: Term) -> bool:
    """A stand-in of about the same length reads as well."""
    return abs(len(text.split()) - len(term.text.split())) <= 1
