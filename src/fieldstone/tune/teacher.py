"""The teachers of the retriever: what scores passages for it, kept batch by batch.

The whole search, with the generator's likelihood of the question (ART). It needs no labels, only questions:
Sachan et al. (2023), "Questions Are All You Need to Train a Dense Passage Retriever", with the fused ranking
mixed in as in our search. Or that likelihood alone, or a cross-encoder (GPL's pseudo labels).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fieldstone.examples import whole_lines
from fieldstone.models import Generator, Reranker
from fieldstone.progress import Progress, silent
from fieldstone.prompts import likelihood_prompt
from fieldstone.records import fingerprint
from fieldstone.search import Index, search
from fieldstone.settings import SearchSettings
from fieldstone.tune.retriever import Ranking

T = TypeVar("T")

BATCH = 32
"""Questions ranked at once: what a kill can cost."""


def rank(
    index: Index,
    questions: Sequence[str],
    search_settings: SearchSettings,
    candidates: int,
    kept: Path,
    progress: Progress = silent,
) -> list[Ranking]:
    """The teacher's scores of each question's candidates; batches in the file `kept` are not redone.

    Questions with fewer than two candidates teach nothing and are left out.
    """
    teacher = search_settings.model_copy(update={"rerank": "likelihood", "rerank_depth": candidates})

    def ranked(batch: Sequence[str]) -> list[list[tuple[str, float]]]:
        if index.generator is not None:
            index.generator.forget()
        found = search(index, batch, teacher, candidates)
        return [[(hit.passage.id, hit.score) for hit in hits] for hits in found]

    found = list(_by_batches(questions, ranked, kept, progress))
    present = index.library.passages(sorted({id_ for ranking in found for id_, _ in ranking}))
    texts = index.library.passage_texts(present)
    return [
        Ranking(question, tuple(texts[id_] for id_, _ in ranking), tuple(score for _, score in ranking))
        for question, ranking in zip(questions, found, strict=True)
        if len(ranking) > 1 and all(id_ in texts for id_, _ in ranking)
    ]


def likelihoods(
    generator: Generator,
    asked: Sequence[tuple[str, Sequence[str]]],
    kept: Path,
    progress: Progress = silent,
) -> list[tuple[float, ...]]:
    """For each question its log-likelihood a token after each of its passages' texts (UPR, equation 3)."""

    def scored(batch: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        generator.forget()
        prompts = [likelihood_prompt(text) for _, texts in batch for text in texts]
        wanted = [f" {question.strip()}" for question, texts in batch for _ in texts]
        means = iter([score.mean for score in generator.score(prompts, wanted)])
        return [[next(means) for _ in texts] for _, texts in batch]

    return [tuple(scores) for scores in _by_batches(asked, scored, kept, progress)]


def pseudo_labels(
    reranker: Reranker,
    asked: Sequence[tuple[str, Sequence[str]]],
    kept: Path,
    progress: Progress = silent,
) -> list[tuple[float, ...]]:
    """For each question a cross-encoder's score of each of its passages' texts (GPL, Wang et al. 2022)."""

    def scored(batch: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [reranker.rerank(question, texts) for question, texts in batch]

    return [tuple(scores) for scores in _by_batches(asked, scored, kept, progress)]


def _by_batches(
    items: Sequence[T], work: Callable[[Sequence[T]], list[Any]], kept: Path, progress: Progress
) -> Iterator[Any]:
    """What `work` makes of each item; each batch is kept in the file, and found there again after a kill."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = {line["batch"]: line["found"] for line in whole_lines(kept)}
    progress("teach", 0, len(items), "questions")
    with kept.open("a", encoding="utf-8", newline="\n") as file:
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            key = fingerprint(*batch)
            if key not in known:
                known[key] = work(batch)
                file.write(json.dumps({"batch": key, "found": known[key]}) + "\n")
                file.flush()
            yield from known[key]
            progress("teach", min(start + BATCH, len(items)), len(items), "questions")
