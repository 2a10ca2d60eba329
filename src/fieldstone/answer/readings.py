"""Answers read out of passages, in one of the ways of reading, each with what it weighs.

Together: the passages stand numbered in one prompt, and the reply cites before it answers. One by one: each
passage is read in a row of its own, and the answers are weighed by the passages they came from; a small model
needs that. Mixture: the same, but every answer is also weighed by the passages that it did not come from.
FiD: an encoder-decoder that was tuned for it reads each passage apart and writes one answer from all.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fieldstone.languages import other_language
from fieldstone.models import Completion, Generator, Heard, Prompt
from fieldstone.prompts import (
    fid_prompt,
    one_by_one_prompt,
    parse_one_by_one,
    parse_quote,
    parse_together,
    together_prompt,
)
from fieldstone.quotes import find_words
from fieldstone.records import Hit
from fieldstone.search.words import index_words

QUOTE_TOKENS = 96
"""Tokens that a quote may take beside the answer."""

QUOTED = 2
"""A quote of fewer words bears no answer: a single one stands in many passages."""

TEMPERATURE = 0.1
"""How far the search's scores are trusted: p(passage | question) is their softmax at this temperature."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer read out of one passage, what it weighs, and the mean log-probability of its tokens.

    `quote` are the passage's own words, where the answer is in another language.
    """

    text: str
    hit: Hit
    weight: float
    certainty: float = 0.0
    quote: str = ""


def read_one_by_one(
    generator: Generator,
    questions: Sequence[str],
    found: Sequence[Sequence[Hit]],
    texts: Mapping[str, str],
    most: int,
) -> list[list[Reading]]:
    """Each passage answers for itself; equal answers share their weight.

    The mixture of RA-DIT (Lin et al. 2024, equation 2), p(a|q) = sum over c of p(a|c, q) p(c|q), with
    p(c|q) the softmax of the search's scores, and p(a|c, q) an answer's probability a token in the
    passage it was read from, 0 in the others; times the share of its words that stand in that passage,
    for a small model invents.
    """
    result = []
    for its in _replies(generator, questions, found, texts, most):
        readings = []
        for hit, belief, _, reply in its:
            text = parse_one_by_one(reply.text)
            weight = belief * _probability(reply) * grounding(text, texts[hit.passage.id])
            readings.append(Reading(text, hit, weight, _certainty(reply)))
        result.append(_ranked(readings))
    return result


def read_mixture(
    generator: Generator,
    questions: Sequence[str],
    found: Sequence[Sequence[Hit]],
    texts: Mapping[str, str],
    most: int,
) -> list[list[Reading]]:
    """Each passage answers for itself, and every answer is scored under every passage.

    Equation 2 of RA-DIT (Lin et al. 2024) in full: the answer with the highest p(a|q) = sum over c of
    p(a|c, q) p(c|q), where p(a|c, q) is the exact probability of the whole answer and of the end of its
    line. Cited is the passage with the largest share of the sum. A refusal is no answer and does not stand
    for election.
    """
    asked = _replies(generator, questions, found, texts, most)
    written = []
    for its in asked:
        distinct: dict[str, str] = {}
        for *_, reply in its:
            if key := _key(parse_one_by_one(reply.text)):
                distinct.setdefault(key, reply.text)
        written.append(list(distinct.values()))
    pairs = [
        (prompt, f"{text}\n")
        for its, answers in zip(asked, written, strict=True)
        for _, _, prompt, _ in its
        for text in answers
    ]
    scores = iter(generator.score([prompt for prompt, _ in pairs], [text for _, text in pairs]))
    result = []
    for its, answers in zip(asked, written, strict=True):
        scored = [(hit, belief, text, next(scores)) for hit, belief, _, _ in its for text in answers]
        highest = max((score.logprob for *_, score in scored), default=0.0)  # a small model's would underflow
        readings = [
            Reading(parse_one_by_one(text), hit, belief * math.exp(score.logprob - highest), score.mean)
            for hit, belief, text, score in scored
        ]
        result.append(_ranked(readings))
    return result


def _replies(
    generator: Generator,
    questions: Sequence[str],
    found: Sequence[Sequence[Hit]],
    texts: Mapping[str, str],
    most: int,
) -> list[list[tuple[Hit, float, Prompt, Completion]]]:
    """For each question its passages, each with p(c|q), its prompt, and the reply to that."""
    rows = [
        (hit, belief, one_by_one_prompt(texts[hit.passage.id], q))
        for q, hits in zip(questions, found, strict=True)
        for hit, belief in zip(hits, _softmax([hit.score for hit in hits], TEMPERATURE), strict=True)
    ]
    replies = generator.generate([prompt for *_, prompt in rows], max_tokens=most, stop=("\n",))
    remaining = iter([(*row, reply) for row, reply in zip(rows, replies, strict=True)])
    return [[next(remaining) for _ in hits] for hits in found]


def read_together(
    generator: Generator,
    questions: Sequence[str],
    found: Sequence[Sequence[Hit]],
    texts: Mapping[str, str],
    most: int,
    heard: Heard | None = None,
) -> list[list[Reading]]:
    """All passages in one prompt; the passages that the reply cites, in its order, carry the answer.

    Where the passages are in another language than the question, the reply quotes them before it answers.
    `heard` follows the replies as they are written.
    """
    foreign = [in_another_language(q, hits) for q, hits in zip(questions, found, strict=True)]
    prompts = [
        together_prompt([texts[hit.passage.id] for hit in hits], q, quoting=its)
        for q, hits, its in zip(questions, found, foreign, strict=True)
    ]
    most += QUOTE_TOKENS if any(foreign) else 0
    if heard is None:  # a generator of another package may not know it
        replies = generator.generate(prompts, max_tokens=most)
    else:
        replies = generator.generate(prompts, max_tokens=most, heard=heard)
    return [cited_readings(r.text, _probability(r), hits) for hits, r in zip(found, replies, strict=True)]


def read_fid(
    generator: Generator,
    questions: Sequence[str],
    found: Sequence[Sequence[Hit]],
    texts: Mapping[str, str],
    most: int,
) -> list[list[Reading]]:
    """Each passage through the encoder apart, one answer written from all (Izacard and Grave 2021a).

    The reply names no passage: it counts as read out of the one that holds most of its words, and of
    several the one that the search ranks higher.
    """
    prompts = [
        fid_prompt([texts[hit.passage.id] for hit in hits], q)
        for q, hits in zip(questions, found, strict=True)
        if hits
    ]
    replies = iter(generator.generate(prompts, max_tokens=most, stop=("\n",)))
    result = []
    for hits in found:
        reply = next(replies) if hits else Completion("", 0, None, True)
        text, certainty = parse_one_by_one(reply.text), _certainty(reply)
        readings = [Reading(text, h, grounding(text, texts[h.passage.id]), certainty) for h in hits if text]
        result.append(sorted(readings, key=lambda reading: -reading.weight))
    return result


def cited_readings(reply: str, probability: float, hits: Sequence[Hit]) -> list[Reading]:
    """The answer of a reply, once for each passage that it cites."""
    cited, text = parse_together(reply, len(hits))
    quote, certainty = parse_quote(reply), math.log(probability)
    return [Reading(text, hits[n - 1], probability, certainty, quote) for n in cited if text]


def in_another_language(question: str, hits: Sequence[Hit]) -> bool:
    """Whether the passages to read are in another language than the question, as far as that can be told."""
    return other_language(question, " ".join(hit.passage.text for hit in hits))


def translated(question: str, reading: Reading) -> bool:
    """Whether an answer is borne by words of its passage that are in another language than the question.

    They must stand there word for word, and so must every number of the answer.
    """
    text, quote = reading.hit.passage.text, reading.quote
    numbers = re.findall(r"\d+", reading.text)
    return (
        len(index_words(quote)) >= QUOTED
        and other_language(question, text)
        and bool(find_words(quote, text))
        and set(numbers) <= set(re.findall(r"\d+", text))
    )


def _probability(reply: Completion) -> float:
    """An answer's probability a token: the geometric mean over its tokens."""
    return math.exp(_certainty(reply))


def _certainty(reply: Completion) -> float:
    """Mean log-probability of a reply's tokens; 0 where the generator does not say."""
    return (reply.logprob or 0.0) / max(reply.tokens, 1)


def _ranked(readings: Sequence[Reading]) -> list[Reading]:
    """The readings of the answer that weighs most over all passages, the heaviest first."""
    weights: dict[str, float] = defaultdict(float)
    for reading in readings:
        weights[_key(reading.text)] += reading.weight
    weights.pop("", None)
    if not weights:
        return []
    winner = max(weights, key=lambda key: (weights[key], key))
    return sorted((r for r in readings if _key(r.text) == winner), key=lambda r: -r.weight)


def grounding(answer: str, passage: str) -> float:
    """Share of the answer's words that stand in the passage."""
    words = index_words(answer)
    held = set(index_words(passage))
    return sum(word in held for word in words) / len(words) if words else 0.0


def _softmax(scores: Sequence[float], temperature: float) -> list[float]:
    highest = max(scores, default=0.0)
    powers = [math.exp((score - highest) / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


def _key(text: str) -> str:
    return " ".join(index_words(text))


WAYS = {
    "one-by-one": read_one_by_one,
    "together": read_together,
    "mixture": read_mixture,
    "fid": read_fid,
}
"""Each way of reading: of questions, the passages to read for each, all their texts, and the most tokens of a
reply. It gives for each question the readings of its best answer, the heaviest first, or none."""
