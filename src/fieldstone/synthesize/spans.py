"""Questions the way of SimRAG (Xu et al. 2024, section 3.2): first the answers, then a question for each.

The model names what could be asked for in a passage, then writes a question for each answer, conditioned on
the passage and the answer. The prompts are those that the first stage (`tune.generator.instruct`) teaches.
"""

from __future__ import annotations

from collections.abc import Sequence

from fieldstone.models import Completion, Generator
from fieldstone.prompts import ask_for_prompt, name_answers_prompt, parse_answers
from fieldstone.quotes import find_words, sentences
from fieldstone.records import Passage, with_context
from fieldstone.settings import SynthesizeSettings
from fieldstone.synthesize.ask import QUESTION_TOKENS, Asked
from fieldstone.synthesize.terms import terms

NAMED_TOKENS = 64


def ask_by_spans(
    generator: Generator, passages: Sequence[Passage], titles: Sequence[str], settings: SynthesizeSettings
) -> list[Asked]:
    """A question for each of `settings.spans` answers of each passage, in their order.

    Answers that the model names and the passage does not hold are asked nothing; they come back without a
    question and a sentence. Where it names too few, the dates, numbers and names of the passage fill up.
    """
    texts = [with_context(p.text, title, p.headings) for p, title in zip(passages, titles, strict=True)]
    replies = generator.generate(
        [name_answers_prompt(text) for text in texts], max_tokens=NAMED_TOKENS, stop=("\n",)
    )
    asked: list[Asked] = []
    tries: list[tuple[Passage, str, str]] = []
    for passage, text, reply in zip(passages, texts, replies, strict=True):
        named = _named(reply)
        asked += [Asked(passage.id, "", "", n, 0.0, True) for n in named if not find_words(n, passage.text)]
        tries += [(passage, text, span) for span in answers_of(passage.text, named, settings.spans)]
    written = generator.generate(
        [ask_for_prompt(text, span) for _, text, span in tries],
        max_tokens=QUESTION_TOKENS,
        stop=("?", "\n"),
    )
    return asked + [
        Asked(passage.id, sentence_of(span, passage.text), f"{w.text.strip()}?", span, 0.0, w.finished)
        for (passage, _, span), w in zip(tries, written, strict=True)
    ]


def answers_of(text: str, named: Sequence[str], most: int) -> list[str]:
    """At most so many answers that stand in the text: the named ones, then its dates, numbers and names.

    None lies within another, so that they differ.
    """
    chosen: list[str] = []
    fill = [term.text for term in terms(text) if "\n" not in term.text]  # a heading and what follows it
    for answer in [*(n for n in named if find_words(n, text)), *fill]:
        if not any(find_words(answer, other) or find_words(other, answer) for other in chosen):
            chosen.append(answer)
    return chosen[:most]


def sentence_of(answer: str, text: str) -> str:
    """The sentence that holds the answer, or all sentences that it runs through; empty if none does."""
    places = find_words(answer, text)
    if not places:
        return ""
    start, end = places[0]
    touched = [span for span in sentences(text) if span[0] < end and start < span[1]]
    return " ".join(text[touched[0][0] : touched[-1][1]].split())


def _named(reply: Completion) -> list[str]:
    """The answers that were named; the last of a list that was cut off may be half of one."""
    named = parse_answers(reply.text)
    return named if reply.finished else named[:-1]
