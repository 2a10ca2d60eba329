"""Questions out of passages, each with the answer that the same model reads out of what it asked about.

Three ways. `completion`, for small models: a sentence is shown and the question's first words are given
("How many", where the sentence holds a number), the model goes on, and then answers from the sentence.
`chat`, for models that follow instructions: one question and answer a passage (ALoFTRAG's step 2). `simrag`,
for models that have learnt it: `synthesize.spans`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fieldstone.models import Completion, Generator, reads_long
from fieldstone.prompts import (
    ask_blindly_prompt,
    ask_chat_prompt,
    ask_prompt,
    one_by_one_prompt,
    parse_asked,
    parse_one_by_one,
)
from fieldstone.quotes import find_words, sentences
from fieldstone.records import Passage, fingerprint, with_context
from fieldstone.settings import SynthesizeSettings
from fieldstone.synthesize.terms import terms

VERSION = 1
"""Raised when the same model would be asked otherwise than before."""

WORDS = range(7, 61)
"""Words of a sentence that is worth a question."""

QUESTION_TOKENS = 28
ANSWER_TOKENS = 24
CHAT_TOKENS = 512

FITTING = {
    "date": ("When", "In what year"),
    "number": ("How many", "How much"),
    "name": ("Who", "Which", "Where"),
}
ANYWAY = ("What kind of", "What type of", "What was", "What did", "What does", "Which", "How")
"""First words of questions. Of 4,588 tries over eight of SQuAD's dev articles there were kept, in a hundred:
"In what year" 36, "When" 23, "How many" 19, with every other opening 4 to 10."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was written, not yet judged.

    `lift` is how much likelier the sentence makes the question than its title alone does (natural log a
    token; 0 where it was not measured); `sentence` is what was asked about, in the chat way all of it, and in
    the simrag way that which holds the answer.
    """

    passage_id: str
    sentence: str
    question: str
    answer: str
    lift: float
    finished: bool


def way_of_asking(generator: Generator, settings: SynthesizeSettings) -> str:
    """As set, or by chat where the generator reads long prompts, else by completion."""
    if settings.way != "auto":
        return settings.way
    return "chat" if reads_long(generator) else "completion"


def ask(
    generator: Generator,
    passages: Sequence[Passage],
    titles: Sequence[str],
    settings: SynthesizeSettings,
    seed: int = 0,
) -> list[Asked]:
    """Questions about these passages, in their order; the same for the same arguments."""
    if way_of_asking(generator, settings) == "chat":
        return _ask_by_chat(generator, passages, titles)
    return _ask_by_completion(generator, passages, titles, settings, seed)


def worth_asking(passage: Passage) -> list[str]:
    """The sentences of a passage that are neither too short nor too long for a question."""
    pieces = [" ".join(passage.text[a:b].split()) for a, b in sentences(passage.text)]
    return [piece for piece in pieces if len(piece.split()) in WORDS]


def openings(sentence: str, most: int, chance: random.Random) -> list[str]:
    """First words of questions that the sentence may answer, fitting ones first."""
    kinds = dict.fromkeys(term.kind for term in terms(sentence))
    chosen = [chance.choice(FITTING[kind]) for kind in kinds]
    if "because" in sentence.casefold():
        chosen.insert(0, "Why")
    others = [opening for opening in ANYWAY if opening not in chosen]
    chance.shuffle(others)
    return (chosen + others)[:most]


def only_answer(opening: str, sentence: str, question: str) -> str:
    """The one term of the sentence that such a question may ask for; empty if there is none, or several."""
    kind = next((kind for kind, words in FITTING.items() if opening in words), None)
    fitting = {t.text for t in terms(sentence) if t.kind == kind and not find_words(t.text, question)}
    return fitting.pop() if len(fitting) == 1 else ""


def _ask_by_completion(
    generator: Generator,
    passages: Sequence[Passage],
    titles: Sequence[str],
    settings: SynthesizeSettings,
    seed: int,
) -> list[Asked]:
    tries = []
    for passage, title in zip(passages, titles, strict=True):
        chance = random.Random(fingerprint(seed, passage.id))
        # what the sentence is about: its document and the nearest heading
        about = " > ".join(dict.fromkeys(part for part in (title, *passage.headings[-1:]) if part))
        worth = worth_asking(passage)
        chance.shuffle(worth)
        worth.sort(key=lambda piece: -min(2, len({term.kind for term in terms(piece)})))  # most telling
        for sentence in worth[: settings.sentences]:
            for opening in openings(sentence, settings.openings, chance):
                tries.append((passage, title, about, sentence, opening))
    written = generator.generate(
        [ask_prompt(about, sentence, opening) for _, _, about, sentence, opening in tries],
        max_tokens=QUESTION_TOKENS,
        stop=("?", "\n"),
    )
    blind = generator.score(
        [ask_blindly_prompt(about, opening) for _, _, about, _, opening in tries],
        [completion.text for completion in written],
    )
    lifts = [_mean(w) - b.mean for w, b in zip(written, blind, strict=True)]
    questions = [f"{opening}{w.text}?" for (*_, opening), w in zip(tries, written, strict=True)]
    kept = [i for i, lift in enumerate(lifts) if lift >= settings.lift]  # only they are worth an answer
    replies = generator.generate(
        [
            one_by_one_prompt(with_context(sentence, title, passage.headings), questions[i])
            for i in kept
            for passage, title, _, sentence, _ in [tries[i]]
        ],
        max_tokens=ANSWER_TOKENS,
        stop=("\n",),
    )
    answers = {i: parse_one_by_one(reply.text) for i, reply in zip(kept, replies, strict=True)}
    for i, read in answers.items():
        *_, sentence, opening = tries[i]
        if not find_words(read, sentence):
            answers[i] = only_answer(opening, sentence, questions[i]) or read
    return [
        Asked(passage.id, sentence, questions[i], answers.get(i, ""), round(lifts[i], 4), written[i].finished)
        for i, (passage, _, _, sentence, _) in enumerate(tries)
    ]


def _ask_by_chat(generator: Generator, passages: Sequence[Passage], titles: Sequence[str]) -> list[Asked]:
    texts = [with_context(p.text, title, p.headings) for p, title in zip(passages, titles, strict=True)]
    replies = generator.generate([ask_chat_prompt(text) for text in texts], max_tokens=CHAT_TOKENS)
    return [
        Asked(passage.id, text, *parse_asked(reply.text), 0.0, reply.finished)
        for passage, text, reply in zip(passages, texts, replies, strict=True)
    ]


def _mean(completion: Completion) -> float:
    return (completion.logprob or 0.0) / max(completion.tokens, 1)
