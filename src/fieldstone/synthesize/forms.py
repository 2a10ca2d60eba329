"""Other forms of the questions there are: options to choose from, claims to judge (SimRAG's three kinds).

Nothing is written by a model. The options are answers of the same kind from elsewhere in the documents; a
claim is the sentence of the passage that holds the answer, and a false one has a term of it exchanged.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fieldstone.prompts import choice_question, claim_question, option
from fieldstone.quotes import find_words
from fieldstone.records import Example, Passage, fingerprint
from fieldstone.settings import SynthesizeSettings
from fieldstone.synthesize.filters import leaves_open
from fieldstone.synthesize.spans import sentence_of
from fieldstone.synthesize.terms import NO_NAME, Kind, terms
from fieldstone.synthesize.unanswerable import altered

OPTIONS = 4

CLAIM_WORDS = range(5, 36)


def other_forms(
    examples: Sequence[Example],
    passages: Sequence[Passage],
    pool: Mapping[Kind, Sequence[str]],
    how: SynthesizeSettings,
    seed: int,
) -> Iterator[tuple[Example, str, str, str]]:
    """Each example that is asked in another form, with the form (choice or claim), question and answer.

    `pool` holds the terms of the documents by kind; no question comes twice.
    """
    texts = {p.id: p.text for p in passages}
    pool = {kind: [term for term in its if "\n" not in term] for kind, its in pool.items()}
    answers = list(dict.fromkeys(e.answer for e in examples if e.answer))
    known: set[str] = set()
    for example in examples:
        if not example.answer or example.passage_id is None:
            continue
        chance = random.Random(fingerprint("forms", seed, example.id))
        shares = {"choice": chance.random() < how.choices, "claim": chance.random() < how.claims}
        text = texts[example.passage_id]
        for form in [form for form, wanted in shares.items() if wanted]:
            pair = (
                choice(example, text, pool, answers, chance)
                if form == "choice"
                else claim(example, text, pool, chance)
            )
            if pair is not None and pair[0] not in known:  # two answers may stand in one sentence
                known.add(pair[0])
                yield example, form, *pair


def choice(
    example: Example,
    passage: str,
    pool: Mapping[Kind, Sequence[str]],
    others: Iterable[str],
    chance: random.Random,
) -> tuple[str, str] | None:
    """The question with four options, and the right one; None where there are too few options.

    An answer that is a date, number or name competes with such terms of the documents (`pool`), any other
    with answers of other questions (`others`). No wrong option stands in the passage.
    """
    kind = _kind(example.answer)
    rivals = list(pool.get(kind, ())) if kind else [other for other in others if _kind(other) is None]
    chance.shuffle(rivals)
    length = len(example.answer.split())
    wrong: dict[str, str] = {}
    for rival in rivals:
        alike = abs(len(rival.split()) - length) <= 1 + length // 3
        if alike and not find_words(rival, passage) and not find_words(rival, example.question):
            wrong.setdefault(rival.casefold(), rival)
        if len(wrong) == OPTIONS - 1:
            break
    if len(wrong) < OPTIONS - 1:
        return None
    options = [example.answer, *wrong.values()]
    chance.shuffle(options)
    return choice_question(example.question, options), option(options.index(example.answer), example.answer)


def claim(
    example: Example, passage: str, pool: Mapping[Kind, Sequence[str]], chance: random.Random
) -> tuple[str, str] | None:
    """A claim that the passage makes (yes), or one with a term exchanged (no), by chance; None if unfit."""
    said = sentence_of(example.answer, passage)
    if len(said.split()) not in CLAIM_WORDS or leaves_open(said) or said.endswith("?"):
        return None
    if chance.random() < 0.5:
        return claim_question(_within(said)), "yes"
    false = altered(said, passage, pool, chance)
    return (claim_question(_within(false)), "no") if false is not None else None


def _kind(answer: str) -> Kind | None:
    """What kind of term the answer is; None where it is none, or more than one."""
    found = terms(f"is {answer}")  # a word that opens a sentence would be no name
    return found[0].kind if [term.text for term in found] == [answer] else None


def _within(sentence: str) -> str:
    """The sentence as it stands behind other words: "The gate" becomes "the gate"."""
    first = sentence.partition(" ")[0]
    small = NO_NAME.fullmatch(first) and first != "I"
    return sentence[0].lower() + sentence[1:] if small else sentence
