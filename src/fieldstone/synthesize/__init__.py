"""Synthesize: passages in, questions with answers out, divided into train, dev and test.

Writing is slow, so what was written is kept batch by batch in `examples/asked.jsonl`, and a kill costs one
batch. Judging is fast and is done anew each time: rules, retrieval consistency, hard negatives, near misses.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from fieldstone import prompts
from fieldstone.examples import (
    SPLITS,
    Ratings,
    rating_histograms,
    whole_lines,
    write_examples,
    write_lines,
)
from fieldstone.models import Generator
from fieldstone.progress import Progress, silent
from fieldstone.quotes import find_words
from fieldstone.records import Example, Passage, fingerprint, with_context
from fieldstone.search import Index, search
from fieldstone.search.words import index_words
from fieldstone.settings import Settings, SynthesizeSettings
from fieldstone.spread import Spread, here
from fieldstone.synthesize.ask import VERSION, Asked, ask, way_of_asking, worth_asking
from fieldstone.synthesize.divide import divide
from fieldstone.synthesize.filters import ANSWER_WORDS, fault, fault_of_answer, holds, repeats
from fieldstone.synthesize.forms import other_forms
from fieldstone.synthesize.rate import rate_answers, rate_passages
from fieldstone.synthesize.spans import ask_by_spans
from fieldstone.synthesize.terms import Kind, terms
from fieldstone.synthesize.unanswerable import altered

BATCH = 8
"""Passages written about at once: what a kill can cost."""

SEARCHED = 64
"""Questions searched at once."""

CHAT_ANSWER_WORDS = 80


@dataclass(frozen=True, slots=True)
class Synthesized:
    """How many examples there are of each split, and why how many were rejected.

    `unanswered` of them have a passage and no answer that could be relied on: only the retriever learns of
    them. `unanswerable` ones have neither. `ratings`: what was rated -> rating -> how often it was given.
    """

    passages: int
    asked: int
    examples: Mapping[str, int]
    unanswered: int
    unanswerable: int
    rejected: Mapping[str, int]
    ratings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def synthesize(
    folder: Path,
    index: Index,
    generator: Generator,
    settings: Settings,
    own: Sequence[Example] = (),
    progress: Progress = silent,
    only: Collection[str] = SPLITS,
    spread: Spread = here,
) -> Synthesized:
    """Write `train`, `dev`, `test` and `rejected` JSON Lines into `folder`, from the passages of the library.

    `own` are questions of the user's own; they join the split of their passage. `only` passages of these
    splits are asked about; rating and asking are done where `spread` says. Goes on where it was stopped, and
    passages that were asked about before are not asked again.
    """
    how = settings.synthesize
    passages = list(index.library.passages())
    titles = {
        id_: title for id_, (_, title) in index.library.sources({p.document_id for p in passages}).items()
    }
    way = way_of_asking(generator, how)
    chat = way == "chat"
    sides = divide(passages, how)
    telling = [p for p in passages if sides[p.id] in only and (chat or worth_asking(p))]
    chosen = _choose(telling, how, settings.seed)
    asked, ratings = _ask_all(folder / "asked.jsonl", generator, chosen, titles, settings, progress, spread)
    texts = {p.id: with_context(p.text, titles[p.document_id], p.headings) for p in passages}
    made_by = {"model": generator.name, "prompt": _prompt_mark(way), "seed": str(settings.seed)}

    longest = CHAT_ANSWER_WORDS if chat else ANSWER_WORDS
    faults = [fault(a, how.lift if way == "completion" else 0.0) for a in asked]
    sound = [a for a, why in zip(asked, faults, strict=True) if why is None]
    rejected = [(a, why) for a, why in zip(asked, faults, strict=True) if why is not None]
    again = repeats(sound)
    rejected += [(sound[i], "another question says the same") for i in sorted(again)]
    sound = [a for i, a in enumerate(sound) if i not in again]

    examples: list[Example] = []
    for a, found in zip(sound, _look_up(index, [a.question for a in sound], settings, progress), strict=True):
        if (why := _lost(a, found[: how.found_within], texts, how)) is not None:
            rejected.append((a, why))
        elif (why := fault_of_answer(a, longest)) is not None:
            # the question still says what its passage is about, which is what a retriever learns from
            made = {**made_by, "answer": f"left out: {why}"}
            examples.append(_example(a.question, "", a.passage_id, (), made))
        else:
            near = _negatives(a, found, texts, how)
            examples.append(_example(a.question, a.answer, a.passage_id, near, made_by))
    pool = _terms_of(passages)
    plain = [e for e in examples if how.deciding == "all" or sides[e.passage_id or ""] == "train"]
    forms = [
        _example(question, answer, e.passage_id, e.negatives, {**made_by, "form": form})
        for e, form, question, answer in other_forms(plain, passages, pool, how, settings.seed)
    ]
    examples += _near_misses(examples, texts, pool, how, settings.seed, made_by)
    examples += forms
    examples += own
    parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for example in examples:
        about = example.passage_id or (example.negatives[0] if example.negatives else "")
        parts[sides.get(about, "train")].append(example)
    for split, its in parts.items():
        write_examples(folder / f"{split}.jsonl", its)
    write_lines(
        folder / "rejected.jsonl",
        (
            {"reason": why} | asdict(_example(a.question, a.answer, a.passage_id, (), made_by))
            for a, why in rejected
        ),
    )
    return Synthesized(
        len(chosen),
        len(asked),
        {split: len(its) for split, its in parts.items()},
        sum(example.kind == "answerable" and not example.answer for example in examples),
        sum(example.kind == "unanswerable" for example in examples),
        dict(Counter(why for _, why in rejected).most_common()),
        rating_histograms(ratings),
    )


def _choose(passages: Sequence[Passage], how: SynthesizeSettings, seed: int) -> list[Passage]:
    """At most so many passages, drawn by their fingerprint: new documents do not change who else is drawn."""
    drawn = sorted(passages, key=lambda p: fingerprint("draw", seed, p.id))[: how.passages]
    ids = {p.id for p in drawn}
    return [p for p in passages if p.id in ids]


def _ask_all(
    path: Path,
    generator: Generator,
    passages: Sequence[Passage],
    titles: Mapping[str, str],
    settings: Settings,
    progress: Progress,
    spread: Spread,
) -> tuple[list[Asked], list[Ratings]]:
    """What was asked about each passage, from the file where it stands there, else written now; ratings."""
    how, seed = settings.synthesize, settings.seed
    way = way_of_asking(generator, how)
    maker = fingerprint(
        VERSION, _prompt_mark(way), generator.fingerprint, seed, way, how.sentences,
        how.openings, how.lift, how.rate_passages, how.rate_questions, how.least_rating,
        *([how.spans] if way == "simrag" else []),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {
        line["batch"]: ([Asked(**a) for a in line["asked"]], line.get("ratings", {}))
        for line in whole_lines(path)
    }
    batches = list(_batches(passages))
    keys = [fingerprint(maker, *(f"{p.id} {titles[p.document_id]} {p.headings}" for p in b)) for b in batches]
    done = sum(len(b) for key, b in zip(keys, batches, strict=True) if key in known)
    progress("synthesize", done, len(passages), "passages")
    left = {key: batch for key, batch in zip(keys, batches, strict=True) if key not in known}
    titled = ([(p, titles[p.document_id]) for p in batch] for batch in left.values())
    written = spread(partial(_ask_batch, generator, how, seed), titled)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        for (key, batch), (asked, ratings) in zip(left.items(), written, strict=True):
            known[key] = asked, ratings
            line = {"batch": key, "asked": [asdict(a) for a in asked], "ratings": ratings}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            done += len(batch)
            progress("synthesize", done, len(passages), "passages")
    return [a for key in keys for a in known[key][0]], [known[key][1] for key in keys]


def _ask_batch(
    generator: Generator, how: SynthesizeSettings, seed: int, pairs: Sequence[tuple[Passage, str]]
) -> tuple[list[Asked], dict[str, list[float | None]]]:
    """What is asked about passages with their titles, and the ratings."""
    generator.forget()  # what was read before must not show in what is written now
    rated: dict[str, list[float | None]] = {}
    texts = {p.id: with_context(p.text, title, p.headings) for p, title in pairs}
    if how.rate_passages:
        ratings = rated["passages"] = rate_passages(generator, [texts[p.id] for p, _ in pairs])
        pairs = [
            pair for pair, r in zip(pairs, ratings, strict=True) if r is not None and r >= how.least_rating
        ]
    its = [p for p, _ in pairs], [title for _, title in pairs]
    if way_of_asking(generator, how) == "simrag":
        asked = ask_by_spans(generator, *its, how)
    else:
        asked = ask(generator, *its, how, seed)
    if how.rate_questions:
        whole = [a for a in asked if a.question and a.answer]
        ratings = rated["questions"] = rate_answers(
            generator,
            [texts[a.passage_id] for a in whole],
            [a.question for a in whole],
            [a.answer for a in whole],
        )
        asked = [a for a, r in zip(whole, ratings, strict=True) if r is not None and r >= how.least_rating]
    return asked, rated


def _batches(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Passages of one document together, so that a new document leaves the batches of the others alone."""
    by_document: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        by_document[passage.document_id].append(passage)
    for its in by_document.values():
        for start in range(0, len(its), BATCH):
            yield its[start : start + BATCH]


def _look_up(
    index: Index, questions: Sequence[str], settings: Settings, progress: Progress
) -> Iterator[list[str]]:
    """Ids of the passages that the search finds for each question, before any reranking."""
    plain = settings.search.model_copy(update={"rerank": "none"})
    how = settings.synthesize
    for start in range(0, len(questions), SEARCHED):
        progress("filter", start, len(questions), "questions")
        for hits in search(
            index, questions[start : start + SEARCHED], plain, how.found_within + 2 * how.negatives
        ):
            yield [hit.passage.id for hit in hits]
    progress("filter", len(questions), len(questions), "questions")


def _lost(a: Asked, found: Sequence[str], texts: Mapping[str, str], how: SynthesizeSettings) -> str | None:
    """Why what the search found for a question does not speak for it; None if it does.

    By SimRAG's consistency any found passage may hold the answer (Xu et al. 2024, section 3.2).
    """
    if how.consistency == "answer":
        lost = not any(holds(a.answer, texts[id_]) for id_ in found)
        why = f"no passage among the {how.found_within} that the search finds holds the answer"
    else:
        lost = a.passage_id not in found
        why = f"the search does not find its passage among {how.found_within}"
    return why if lost else None


def _negatives(
    a: Asked, found: Sequence[str], texts: Mapping[str, str], how: SynthesizeSettings
) -> tuple[str, ...]:
    """The best found passages that do not hold the answer."""
    wrong = [id_ for id_ in found if id_ != a.passage_id and not find_words(a.answer, texts[id_])]
    return tuple(wrong[: how.negatives])


def _terms_of(passages: Sequence[Passage]) -> dict[Kind, list[str]]:
    """The dates, numbers and names of all passages, each once."""
    pool: dict[Kind, dict[str, None]] = defaultdict(dict)
    for passage in passages:
        for term in terms(passage.text):
            pool[term.kind][term.text] = None
    return {kind: list(its) for kind, its in pool.items()}


def _near_misses(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    pool: Mapping[Kind, Sequence[str]],
    how: SynthesizeSettings,
    seed: int,
    made_by: Mapping[str, str],
) -> list[Example]:
    known = {tuple(index_words(example.question)) for example in examples}  # of these, some are answered
    made = []
    for example in examples:
        chance = random.Random(fingerprint("near miss", seed, example.id))
        if example.passage_id is None or not example.answer or chance.random() >= how.altered:
            continue
        question = altered(example.question, texts[example.passage_id], pool, chance)
        if question is not None and (words := tuple(index_words(question))) not in known:
            known.add(words)
            near = (example.passage_id, *example.negatives)
            made.append(_example(question, "", None, near, made_by))
    return made


def _example(
    question: str, answer: str, passage: str | None, negatives: tuple[str, ...], made_by: Mapping[str, str]
) -> Example:
    id_ = fingerprint(question, answer, passage)
    kind = "unanswerable" if passage is None else "answerable"
    return Example(id_, question, answer, passage, negatives, kind, "synthetic", dict(made_by))  # type: ignore[arg-type]


def _prompt_mark(way: str) -> str:
    """Stands for the wording of the prompts that questions are written with."""
    if way == "simrag":
        return fingerprint(prompts.NAMED, prompts.RATE_PASSAGE, prompts.RATE_QUESTION)
    return fingerprint(
        prompts.ASKED, prompts.SHOWN, prompts.ASK_CHAT, prompts.RATE_PASSAGE, prompts.RATE_QUESTION
    )
