"""A question to a cited answer: retrieve, read, answer, cite, and say so when the documents are silent.

Five ways of reading. Together: the passages stand numbered in one prompt, and the reply cites before it
answers. One by one: each passage is read in a row of its own, and the answers are weighed by the
passages they came from; a small model needs that. Mixture: the same, but every answer is also weighed by
the passages that it did not come from. FiD: an encoder-decoder that was tuned for it reads each passage apart
and writes one answer from all. Search: the model asks for what it wants to read.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fieldstone.in_use import reranking_model, trust_in_use, with_tuned
from fieldstone.library import Library
from fieldstone.models import Completion, Generator, Prompt, load_generator, reads_long
from fieldstone.prompts import (
    NO_ANSWER,
    fid_prompt,
    one_by_one_prompt,
    parse_one_by_one,
    parse_together,
    together_prompt,
)
from fieldstone.quotes import find_words, sentences
from fieldstone.records import Answer, Citation, Hit, Passage
from fieldstone.search import Filter, Index, search
from fieldstone.search.by_model import search_by_model
from fieldstone.search.confidence import USUAL, Figures, Weights, confidence, figures
from fieldstone.search.open import open_index
from fieldstone.search.words import index_words
from fieldstone.settings import AnswerSettings, Settings
from fieldstone.workspace import Workspace

SEARCH_DEPTH = 10
"""Passages that a search for an answer gives at least: what is shown, though fewer are read."""

QUOTE_CHARACTERS = 400

TEMPERATURE = 0.1
"""How far the search's scores are trusted: p(passage | question) is their softmax at this temperature."""


@dataclass(frozen=True, slots=True)
class System:
    """All that answering needs, opened: an index to search, a generator to read with, the settings.

    `weights` say how far to trust an answer.
    """

    index: Index
    generator: Generator
    settings: Settings
    weights: Weights = USUAL

    @property
    def abstain_below(self) -> float:
        """The confidence that is too low to answer."""
        below = self.weights.below
        return self.settings.answer.abstain_below if below is None else below


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer read out of one passage, what it weighs, and the mean log-probability of its tokens."""

    text: str
    hit: Hit
    weight: float
    certainty: float = 0.0


@dataclass(frozen=True, slots=True)
class Read:
    """What was found for a question, the readings of the best answer, and the seconds it took."""

    question: str
    hits: tuple[Hit, ...]
    readings: tuple[Reading, ...]
    timings: Mapping[str, float]


def open_system(workspace: Workspace, settings: Settings) -> System:
    """Load the models in use (the settings', or what was tuned from them) and open the indexes."""
    settings = with_tuned(workspace, settings)
    models = settings.models
    generator = load_generator(models.generator, device=models.device, threads=models.threads or None)
    index = open_index(workspace, settings, generator)
    trusted = trust_in_use(workspace, models.encoder, models.generator, reranking_model(settings))
    return System(index, generator, settings, trusted)


def answer(system: System, questions: Sequence[str], filter: Filter | None = None) -> list[Answer]:
    """One cited answer a question; `timings` holds the batch's seconds divided by its questions."""
    return [conclude(system, its) for its in read(system, questions, filter=filter)]


def read(
    system: System,
    questions: Sequence[str],
    filter: Filter | None = None,
    without: Sequence[str | None] | None = None,
) -> list[Read]:
    """What is found for each question and read out of it, before it is decided whether to trust it.

    `without` names for each question a passage that must not be found.
    """
    if not questions:
        return []
    began = time.perf_counter()
    reading = way_of_reading(system.generator, system.settings.answer)
    if reading == "search":
        return _read_by_searching(system, questions, filter, without)
    found = _find(system, questions, filter)
    if without is not None:
        found = [[h for h in hits if h.passage.id != out] for hits, out in zip(found, without, strict=True)]
    searched = time.perf_counter()
    readings = _WAYS[reading](system, questions, [hits[: system.settings.answer.passages] for hits in found])
    ended = time.perf_counter()
    timings = {"search": (searched - began) / len(questions), "read": (ended - searched) / len(questions)}
    return [
        Read(question, tuple(hits), tuple(its), timings)
        for question, hits, its in zip(questions, found, readings, strict=True)
    ]


def conclude(system: System, read: Read) -> Answer:
    """The answer, or that the documents do not answer, as the system trusts what was read."""
    known = trust(system, read)
    belief = 0.0 if known is None else confidence(known[0], system.weights) * known[1]
    if not read.readings or belief < system.abstain_below:
        return Answer(NO_ANSWER, (), read.hits, True, belief, read.timings)
    best = read.readings[0]
    citation = _cite(system.index.library, best, read.question)
    return Answer(best.text, (citation,), read.hits, False, belief, read.timings)


def trust(system: System, read: Read) -> tuple[Figures, float] | None:
    """What is known of the passage that the answer was read out of, and the share of the answer in it.

    None where nothing was read. The confidence is that of the figures times the share.
    """
    if not read.readings:
        return None
    best = read.readings[0]
    text = system.index.library.passage_texts([best.hit.passage])[best.hit.passage.id]
    known = figures(read.question, read.hits, best.hit, text, system.index.lexical, best.certainty)
    return known, _grounding(best.text, text)


def stream_answer(system: System, question: str, filter: Filter | None = None) -> Iterator[str | Answer]:
    """The answer's text in pieces as it is written, then the whole Answer.

    Read together, the text starts to come once the reply has cited a passage that can be trusted. Read in
    another way, an answer is known only once the passages have been weighed: it comes as one piece.
    """
    if way_of_reading(system.generator, system.settings.answer) != "together":
        whole = answer(system, [question], filter)[0]
        yield whole.text
        yield whole
        return
    began = time.perf_counter()
    hits = _find(system, [question], filter)[0]
    searched = time.perf_counter()
    shown = hits[: system.settings.answer.passages]
    texts = system.index.library.passage_texts(hit.passage for hit in shown)
    prompt = together_prompt([texts[hit.passage.id] for hit in shown], question)
    reply, sent = "", 0
    pieces = system.generator.stream(prompt, max_tokens=system.settings.answer.max_tokens) if shown else ()
    for piece in pieces:
        reply += piece
        cited, text = parse_together(reply, len(shown))
        if not cited or len(text) <= sent:
            continue
        cited_hit = shown[cited[0] - 1]
        so_far = Read(question, tuple(hits), (Reading(text, cited_hit, 1.0),), {})
        if not conclude(system, so_far).abstained:
            yield text[sent:]
            sent = len(text)
    timings = {"search": searched - began, "read": time.perf_counter() - searched}
    yield conclude(system, Read(question, tuple(hits), tuple(_readings(reply, 1.0, shown)), timings))


def way_of_reading(generator: Generator, settings: AnswerSettings) -> str:
    """As set, or together where the generator reads long prompts, else one by one."""
    if settings.reading != "auto":
        return settings.reading
    return "together" if reads_long(generator) else "one-by-one"


def _read_one_by_one(
    system: System, questions: Sequence[str], found: Sequence[Sequence[Hit]]
) -> list[list[Reading]]:
    """Each passage answers for itself; equal answers share their weight.

    The mixture of RA-DIT (Lin et al. 2024, equation 2), p(a|q) = sum over c of p(a|c, q) p(c|q), with
    p(c|q) the softmax of the search's scores, and p(a|c, q) an answer's probability a token in the
    passage it was read from, 0 in the others; times the share of its words that stand in that passage,
    for a small model invents.
    """
    texts = system.index.library.passage_texts(hit.passage for hits in found for hit in hits)
    result = []
    for its in _replies(system, questions, found, texts):
        readings = []
        for hit, belief, _, reply in its:
            text = parse_one_by_one(reply.text)
            weight = belief * _probability(reply) * _grounding(text, texts[hit.passage.id])
            readings.append(Reading(text, hit, weight, _certainty(reply)))
        result.append(_ranked(readings))
    return result


def _read_mixture(
    system: System, questions: Sequence[str], found: Sequence[Sequence[Hit]]
) -> list[list[Reading]]:
    """Each passage answers for itself, and every answer is scored under every passage.

    Equation 2 of RA-DIT (Lin et al. 2024) in full: the answer with the highest p(a|q) = sum over c of
    p(a|c, q) p(c|q), where p(a|c, q) is the exact probability of the whole answer and of the end of its
    line. Cited is the passage with the largest share of the sum. A refusal is no answer and does not stand
    for election.
    """
    texts = system.index.library.passage_texts(hit.passage for hits in found for hit in hits)
    asked = _replies(system, questions, found, texts)
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
    scores = iter(system.generator.score([prompt for prompt, _ in pairs], [text for _, text in pairs]))
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
    system: System,
    questions: Sequence[str],
    found: Sequence[Sequence[Hit]],
    texts: Mapping[str, str],
) -> list[list[tuple[Hit, float, Prompt, Completion]]]:
    """For each question its passages, each with p(c|q), its prompt, and the reply to that."""
    rows = [
        (hit, belief, one_by_one_prompt(texts[hit.passage.id], q))
        for q, hits in zip(questions, found, strict=True)
        for hit, belief in zip(hits, _softmax([hit.score for hit in hits], TEMPERATURE), strict=True)
    ]
    replies = system.generator.generate(
        [prompt for *_, prompt in rows], max_tokens=system.settings.answer.max_tokens, stop=("\n",)
    )
    remaining = iter([(*row, reply) for row, reply in zip(rows, replies, strict=True)])
    return [[next(remaining) for _ in hits] for hits in found]


def _read_together(
    system: System, questions: Sequence[str], found: Sequence[Sequence[Hit]]
) -> list[list[Reading]]:
    """All passages in one prompt; the passages that the reply cites, in its order, carry the answer."""
    texts = system.index.library.passage_texts(hit.passage for hits in found for hit in hits)
    prompts = [
        together_prompt([texts[hit.passage.id] for hit in hits], q)
        for q, hits in zip(questions, found, strict=True)
    ]
    replies = system.generator.generate(prompts, max_tokens=system.settings.answer.max_tokens)
    return [_readings(r.text, _probability(r), hits) for hits, r in zip(found, replies, strict=True)]


def _read_fid(
    system: System, questions: Sequence[str], found: Sequence[Sequence[Hit]]
) -> list[list[Reading]]:
    """Each passage through the encoder apart, one answer written from all (Izacard and Grave 2021a).

    The reply names no passage: it counts as read out of the one that holds most of its words, and of
    several the one that the search ranks higher.
    """
    texts = system.index.library.passage_texts(hit.passage for hits in found for hit in hits)
    prompts = [
        fid_prompt([texts[hit.passage.id] for hit in hits], q)
        for q, hits in zip(questions, found, strict=True)
        if hits
    ]
    most = system.settings.answer.max_tokens
    replies = iter(system.generator.generate(prompts, max_tokens=most, stop=("\n",)))
    result = []
    for hits in found:
        reply = next(replies) if hits else Completion("", 0, None, True)
        text, certainty = parse_one_by_one(reply.text), _certainty(reply)
        readings = [Reading(text, h, _grounding(text, texts[h.passage.id]), certainty) for h in hits if text]
        result.append(sorted(readings, key=lambda reading: -reading.weight))
    return result


_WAYS = {
    "one-by-one": _read_one_by_one,
    "together": _read_together,
    "mixture": _read_mixture,
    "fid": _read_fid,
}
"""How each way of reading is done; `way_of_reading` says which."""


def _read_by_searching(
    system: System, questions: Sequence[str], filter: Filter | None, without: Sequence[str | None] | None
) -> list[Read]:
    """The model searches by itself; the answer counts as read in the first passage found that holds it.

    Where none does it is the first one found: then the share of its words there says how far to trust it.
    """
    began = time.perf_counter()
    library, tuning = system.index.library, system.settings.search_rl

    def find(asked: Sequence[tuple[int, str]]) -> list[list[Hit]]:
        found = _find(system, [query for _, query in asked], filter)
        out = [without[number] if without else None for number, _ in asked]
        return [[h for h in hits if h.passage.id != its] for hits, its in zip(found, out, strict=True)]

    def texts(hits: Sequence[Hit]) -> list[str]:
        known = library.passage_texts(hit.passage for hit in hits)
        return [known[hit.passage.id] for hit in hits]

    reads = []
    for its in search_by_model(system.generator, questions, find, texts, tuning):
        hits = tuple(its.hits)
        holding = [hit for hit in hits if find_words(its.answer, hit.passage.text)] or hits[:1]
        readings = [Reading(its.answer, hit, 1.0, its.certainty) for hit in holding if its.answer]
        reads.append(Read(its.question, hits, tuple(readings), {}))
    seconds = (time.perf_counter() - began) / len(questions)
    return [replace(its, timings={"search": 0.0, "read": seconds}) for its in reads]


def _readings(reply: str, probability: float, hits: Sequence[Hit]) -> list[Reading]:
    """The answer of a reply, once for each passage that it cites."""
    cited, text = parse_together(reply, len(hits))
    return [Reading(text, hits[n - 1], probability, math.log(probability)) for n in cited if text]


def _find(system: System, questions: Sequence[str], filter: Filter | None) -> list[list[Hit]]:
    """What the search finds; nothing for a question without a word in it."""
    depth = max(SEARCH_DEPTH, system.settings.answer.passages)
    found = search(system.index, questions, system.settings.search, depth, filter)
    return [hits if index_words(q) else [] for q, hits in zip(questions, found, strict=True)]


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


def _grounding(answer: str, passage: str) -> float:
    """Share of the answer's words that stand in the passage."""
    words = index_words(answer)
    held = set(index_words(passage))
    return sum(word in held for word in words) / len(words) if words else 0.0


def _cite(library: Library, reading: Reading, question: str) -> Citation:
    """The sentence of the passage that holds the answer, else the one with most of its words."""
    passage = reading.hit.passage
    start, end = _quote(passage, reading.text, question)
    start, end = passage.start + start, passage.start + end
    try:
        text = library.document(passage.document_id).text
    except KeyError:  # removed by another process since the search
        text = ""
    quote = passage.text[start - passage.start : end - passage.start]
    return Citation(passage.id, quote, start, end, verified=bool(quote) and text[start:end] == quote)


def _quote(passage: Passage, answer: str, question: str) -> tuple[int, int]:
    wanted = set(index_words(question))
    spans = sentences(passage.text) or [(0, len(passage.text))]
    holding = []
    for start, end in find_words(answer, passage.text):
        first = next((s for s in spans if s[0] <= start < s[1]), spans[0])
        last = next((s for s in spans if s[0] < end <= s[1]), first)
        holding.append((first[0], max(last[1], end)))
    if not holding:
        wanted |= set(index_words(answer))
        holding = spans
    best = max(holding, key=lambda s: (len(wanted & set(index_words(passage.text[s[0] : s[1]]))), -s[0]))
    return best[0], min(best[1], best[0] + QUOTE_CHARACTERS)


def _softmax(scores: Sequence[float], temperature: float) -> list[float]:
    highest = max(scores, default=0.0)
    powers = [math.exp((score - highest) / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


def _key(text: str) -> str:
    return " ".join(index_words(text))
