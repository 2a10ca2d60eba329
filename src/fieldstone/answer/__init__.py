"""A question to a cited answer: retrieve, read, answer, cite, and say so when the documents are silent.

Passages are read in one of the ways of `readings`; or the model searches by itself and asks for what it wants
to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fieldstone import models as all_models
from fieldstone.answer.readings import (
    QUOTE_TOKENS,
    WAYS,
    Reading,
    cited_readings,
    grounding,
    in_another_language,
    read_together,
    translated,
)
from fieldstone.in_use import reranking_model, trust_in_use, with_tuned
from fieldstone.library import Library
from fieldstone.models import Generator, Heard, Loader, reads_long
from fieldstone.prompts import NO_ANSWER, together_prompt
from fieldstone.quotes import find_words, sentences
from fieldstone.records import Answer, Citation, Hit, Passage
from fieldstone.search import Filter, Index, search
from fieldstone.search.by_model import search_by_model
from fieldstone.search.confidence import USUAL, USUAL_AGREEMENT, Figures, Weights, confidence, figures
from fieldstone.search.open import open_index
from fieldstone.search.words import index_words
from fieldstone.settings import AnswerSettings, Settings
from fieldstone.workspace import Workspace

SEARCH_DEPTH = 10
"""Passages that a search for an answer gives at least: what is shown, though fewer are read."""

QUOTE_CHARACTERS = 400

Told = Callable[[Sequence[Sequence[Hit]]], None]
"""Called with the hits of each question as soon as they are known, before they are read."""

Wrote = Callable[[str], None]
"""Called with the answer to a question so far, while that can be trusted; what it raises ends the reading."""


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
class Read:
    """What was found for a question, the readings of the best answer, and the seconds it took."""

    question: str
    hits: tuple[Hit, ...]
    readings: tuple[Reading, ...]
    timings: Mapping[str, float]


def open_system(workspace: Workspace, settings: Settings, loader: Loader = all_models) -> System:
    """Load the models in use (the settings', or what was tuned from them) and open the indexes."""
    settings = with_tuned(workspace, settings)
    models = settings.models
    generator = loader.load_generator(
        models.generator, device=models.device, threads=models.threads or None, engine=models.engine
    )
    index = open_index(workspace, settings, generator, loader)
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
    told: Told | None = None,
    wrote: Sequence[Wrote | None] | None = None,
) -> list[Read]:
    """What is found for each question and read out of it, before it is decided whether to trust it.

    `without` names for each question a passage that must not be found; `told` hears early what is found,
    unless the model searches by itself. `wrote` has what follows each question's answer, or None: it does
    where passages are read together, once the reply has cited one that can be trusted. Read in another way,
    an answer is known only once the passages have been weighed.
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
    if told is not None:
        told(found)
    settings, shown = system.settings.answer, [hits[: system.settings.answer.passages] for hits in found]
    texts = system.index.library.passage_texts(hit.passage for hits in shown for hit in hits)
    way = WAYS[reading]
    if wrote is not None and any(wrote) and reading == "together":
        way = partial(read_together, heard=_following(system, questions, found, wrote))
    readings = way(system.generator, questions, shown, texts, settings.max_tokens)
    ended = time.perf_counter()
    timings = {"search": (searched - began) / len(questions), "read": (ended - searched) / len(questions)}
    return [
        Read(question, tuple(hits), tuple(its), timings)
        for question, hits, its in zip(questions, found, readings, strict=True)
    ]


def conclude(system: System, read: Read) -> Answer:
    """The answer, or that the documents do not answer, as the system trusts what was read."""
    belief = _belief(system, read)
    if not read.readings or belief < system.abstain_below:
        return Answer(NO_ANSWER, (), read.hits, True, belief, read.timings)
    best = read.readings[0]
    citation = _cite(system.index.library, best, read.question)
    return Answer(best.text, (citation,), read.hits, False, belief, read.timings)


def _belief(system: System, read: Read) -> float:
    known = trust(system, read)
    return 0.0 if known is None else confidence(known[0], system.weights) * known[1]


def trust(system: System, read: Read) -> tuple[Figures, float] | None:
    """What is known of the passage that the answer was read out of, and the share of the answer in it.

    None where nothing was read. The confidence is that of the figures times the share. An answer in another
    language than its passage stands there whole if the words that it quotes do.
    """
    if not read.readings:
        return None
    best = read.readings[0]
    text = system.index.library.passage_texts([best.hit.passage])[best.hit.passage.id]
    known = figures(read.question, read.hits, best.hit, text, system.index.lexical, best.certainty)
    if translated(read.question, best):  # the lexical search sees next to nothing of it
        return replace(known, agreement=max(known.agreement, USUAL_AGREEMENT)), 1.0
    return known, grounding(best.text, text)


def stream_answer(system: System, question: str, filter: Filter | None = None) -> Iterator[str | Answer]:
    """The answer's text in pieces as it is written, then the whole Answer.

    In pieces only where `read` could tell of them; else it comes as one piece.
    """
    if way_of_reading(system.generator, system.settings.answer) != "together":
        whole = conclude(system, read(system, [question], filter)[0])
        yield whole.text
        yield whole
        return
    began = time.perf_counter()
    hits = _find(system, [question], filter)[0]
    searched = time.perf_counter()
    shown = hits[: system.settings.answer.passages]
    texts = system.index.library.passage_texts(hit.passage for hit in shown)
    quoting = in_another_language(question, shown)
    prompt = together_prompt([texts[hit.passage.id] for hit in shown], question, quoting=quoting)
    most = system.settings.answer.max_tokens + (QUOTE_TOKENS if quoting else 0)
    reply, sent = "", 0
    pieces = system.generator.stream(prompt, max_tokens=most) if shown else ()
    for piece in pieces:
        reply += piece
        text = _begun(system, question, hits, reply)
        if len(text) > sent:
            yield text[sent:]
            sent = len(text)
    timings = {"search": searched - began, "read": time.perf_counter() - searched}
    yield conclude(system, Read(question, tuple(hits), tuple(cited_readings(reply, 1.0, shown)), timings))


def _following(
    system: System, questions: Sequence[str], found: Sequence[Sequence[Hit]], wrote: Sequence[Wrote | None]
) -> Heard:
    """What hears the replies to these questions, and tells what can be trusted of them."""
    known = [""] * len(questions)

    def heard(place: int, reply: str) -> None:
        tell = wrote[place]
        if tell is None or reply == known[place]:
            return
        known[place] = reply
        if begun := _begun(system, questions[place], found[place], reply):
            tell(begun)

    return heard


def _begun(system: System, question: str, hits: Sequence[Hit], reply: str) -> str:
    """The answer in a reply that is not whole yet; empty until a passage is cited that can be trusted."""
    shown = hits[: system.settings.answer.passages]
    readings = cited_readings(reply, 1.0, shown)
    so_far = Read(question, tuple(hits), tuple(readings), {})
    return readings[0].text if readings and _belief(system, so_far) >= system.abstain_below else ""


def way_of_reading(generator: Generator, settings: AnswerSettings) -> str:
    """As set, or together where the generator reads long prompts, else one by one."""
    if settings.reading != "auto":
        return settings.reading
    return "together" if reads_long(generator) else "one-by-one"


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


def _find(system: System, questions: Sequence[str], filter: Filter | None) -> list[list[Hit]]:
    """What the search finds; nothing for a question without a word in it."""
    depth = max(SEARCH_DEPTH, system.settings.answer.passages)
    found = search(system.index, questions, system.settings.search, depth, filter)
    return [hits if index_words(q) else [] for q, hits in zip(questions, found, strict=True)]


def _cite(library: Library, reading: Reading, question: str) -> Citation:
    """The sentence of the passage that holds the answer, else the one with most of its words."""
    passage = reading.hit.passage
    wanted = reading.quote if find_words(reading.quote, passage.text) else reading.text
    start, end = _quote(passage, wanted, question)
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
