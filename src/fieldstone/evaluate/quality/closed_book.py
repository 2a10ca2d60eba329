"""Questions put without their passage: what a model answers then, it knew before it read your documents.

Such a question teaches little, and tells little of a system that is to answer from documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fieldstone.errors import ModelError
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.measures.lost import ENOUGH
from fieldstone.evaluate.statistics.bootstrap import Estimate, bootstrap_mean
from fieldstone.models import Generator
from fieldstone.progress import Progress, silent
from fieldstone.prompts import closed_book_prompt, one_by_one_prompt, parse_one_by_one
from fieldstone.records import Example

BATCH = 8
TOKENS = 24


@dataclass(frozen=True, slots=True)
class ClosedBook:
    """How the generator answers with and without the passage.

    `known` is the share of questions answered right without it (F1 of .5 or more), `f1_with` and
    `f1_without` are means. `lift` is by how much the passage makes the right answer likelier (natural log a
    token), `unhelped` the share of questions whose answer it makes no likelier; both are None of a
    generator that gives no likelihoods. `answered` are the questions known, each with the answer.
    """

    known: Estimate
    f1_with: Estimate
    f1_without: Estimate
    lift: Estimate | None
    unhelped: Estimate | None
    answered: tuple[tuple[str, str], ...]


def closed_book(
    generator: Generator,
    examples: Sequence[Example],
    texts: Mapping[str, str],
    documents: Mapping[str, str],
    progress: Progress = silent,
) -> ClosedBook | None:
    """Ask each example twice; `texts` and `documents` are of its passage. None without any example.

    Every example has an answer and a passage. Intervals draw whole documents.
    """
    if not examples:
        return None
    right = {True: [0.0] * len(examples), False: [0.0] * len(examples)}
    said = [""] * len(examples)
    lifts: list[float | None] = [None] * len(examples)
    for start in range(0, len(examples), BATCH):
        progress("closed book", start, len(examples), "questions")
        batch = examples[start : start + BATCH]
        prompts = {
            True: [one_by_one_prompt(texts[e.passage_id or ""], e.question) for e in batch],
            False: [closed_book_prompt(e.question) for e in batch],
        }
        for shown, its in prompts.items():
            replies = generator.generate(its, max_tokens=TOKENS, stop=("\n",))
            for place, (example, reply) in enumerate(zip(batch, replies, strict=True), start=start):
                text = parse_one_by_one(reply.text)
                right[shown][place] = token_f1(text, (example.answer,))
                said[place] = text  # in the end what was said without the passage
        wanted = [f" {e.answer}" for e in batch]
        try:
            scores = {shown: generator.score(its, wanted) for shown, its in prompts.items()}
        except ModelError:  # a model server that gives no likelihoods
            continue
        for place, (seen, blind) in enumerate(zip(scores[True], scores[False], strict=True), start=start):
            lifts[place] = seen.mean - blind.mean
    progress("closed book", len(examples), len(examples), "questions")
    clusters = [documents[e.passage_id or ""] for e in examples]
    known = [float(f1 >= ENOUGH) for f1 in right[False]]
    means = [bootstrap_mean(values, clusters) for values in (known, right[True], right[False])]
    share, seen_f1, blind_f1 = (its for its in means if its is not None)
    return ClosedBook(
        share,
        seen_f1,
        blind_f1,
        bootstrap_mean(lifts, clusters),
        bootstrap_mean([None if lift is None else float(lift <= 0) for lift in lifts], clusters),
        tuple((e.question, text) for e, text, knew in zip(examples, said, known, strict=True) if knew),
    )
