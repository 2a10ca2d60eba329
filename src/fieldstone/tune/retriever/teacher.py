"""The teachers of the retriever: what scores passages for it, kept batch by batch.

`rank` is the whole search, with the generator's likelihood of the question (ART). It needs no labels, only
questions: Sachan et al. (2023), "Questions Are All You Need to Train a Dense Passage Retriever", with the
fused ranking mixed in as in our search. `likelihoods` is that likelihood alone, `pseudo_labels` a
cross-encoder (GPL). `supervise` is the generator's likelihood of the *answer* after each passage that was
found (LSR: REPLUG, Shi et al. 2023; RA-DIT, Lin et al. 2024). `rank_by_attention` is the attention of a
reader that was tuned as Fusion-in-Decoder: Izacard and Grave (2021b), "Distilling Knowledge from Reader to
Retriever for Question Answering".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fieldstone.errors import ModelError, SettingsError
from fieldstone.models import Generator, Prompt, Reranker, Score
from fieldstone.progress import Progress, silent
from fieldstone.prompts import (
    fid_prompt,
    likelihood_prompt,
    one_by_one_prompt,
    together_prompt,
    together_reply,
)
from fieldstone.records import Example
from fieldstone.search import Index, search
from fieldstone.settings import SearchSettings, Settings
from fieldstone.tune.kept import BATCH, by_batches
from fieldstone.tune.retriever import Ranking

T = TypeVar("T")


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

    return _rankings(index, questions, by_batches(questions, ranked, kept, progress))


def rank_by_attention(
    index: Index,
    questions: Sequence[str],
    search_settings: SearchSettings,
    candidates: int,
    reader: Generator,
    kept: Path,
    progress: Progress = silent,
) -> list[Ranking]:
    """How much the reader attends to each question's candidates while it begins to answer from all of them.

    Otherwise as `rank`. The candidates are those of the search without reranking. Raises ModelError for a
    reader that is no encoder-decoder.
    """
    from fieldstone.models.seq2seq import Seq2SeqGenerator  # here: it loads torch

    if not isinstance(reader, Seq2SeqGenerator):
        raise ModelError(
            f"{reader.name} has no cross-attention, by which retriever.teacher_kind = cross-attention "
            "teaches; tune a T5 or a BART with answer.reading = fid and name it in retriever.reader"
        )
    plain = search_settings.model_copy(update={"rerank": "none"})

    def ranked(batch: Sequence[str]) -> list[list[tuple[str, float]]]:
        found = search(index, batch, plain, candidates)
        texts = index.library.passage_texts(hit.passage for hits in found for hit in hits)
        read = [[hit.passage.id for hit in hits] for hits in found]
        asked = [
            fid_prompt([texts[id_] for id_ in ids], question)
            for question, ids in zip(batch, read, strict=True)
            if ids
        ]
        scores = iter(reader.attend(asked))
        return [list(zip(ids, next(scores), strict=True)) if ids else [] for ids in read]

    return _rankings(index, questions, by_batches(questions, ranked, kept, progress))


def _rankings(
    index: Index, questions: Sequence[str], ranked: Iterable[Sequence[tuple[str, float]]]
) -> list[Ranking]:
    """Passages' ids and scores as texts and scores; a single candidate teaches nothing."""
    found = list(ranked)
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

    return [tuple(scores) for scores in by_batches(asked, scored, kept, progress)]


def supervise(
    index: Index,
    examples: Sequence[Example],
    settings: Settings,
    reading: str,
    kept: Path,
    progress: Progress = silent,
) -> list[Ranking]:
    """For each example with an answer, the best found passages, and how likely each makes the answer.

    The prompts are those that answering writes when it reads so (`reading`: together or one-by-one), with one
    passage. `retriever.lsr_score` says which figure: the natural log-probability a token of the answer, or
    the probability of the whole answer, as in RA-DIT. What the generator gave stays in the file `kept`.
    """
    how, plain = settings.retriever, settings.search.model_copy(update={"rerank": "none"})
    generator = index.generator
    if generator is None:
        raise SettingsError("retriever.loss = lsr needs a generator; set models.generator")
    told = [e for e in examples if e.answer]
    asked: list[tuple[str, str, tuple[str, ...]]] = []
    for start in range(0, len(told), BATCH):
        progress("search", start, len(told), "questions")
        batch = told[start : start + BATCH]
        found = search(index, [e.question for e in batch], plain, how.candidates)
        texts = index.library.passage_texts([hit.passage for hits in found for hit in hits])
        for example, hits in zip(batch, found, strict=True):
            passages = tuple(dict.fromkeys(texts[hit.passage.id] for hit in hits))
            asked.append((example.question, example.answer, passages))
    progress("search", len(told), len(told), "questions")

    def scored(batch: Sequence[tuple[str, str, Sequence[str]]]) -> list[list[tuple[float, int]]]:
        generator.forget()
        rows = [answer_row(text, q, answer, reading) for q, answer, texts in batch for text in texts]
        scores = iter(generator.score([prompt for prompt, _ in rows], [wanted for _, wanted in rows]))
        return [[(s.logprob, s.tokens) for s in islice(scores, len(texts))] for *_, texts in batch]

    return [
        Ranking(question, passages, tuple(_figure(Score(*pair), how.lsr_score) for pair in pairs))
        for (question, _, passages), pairs in zip(
            asked, by_batches(asked, scored, kept, progress), strict=True
        )
        if len(passages) > 1
    ]


def answer_row(text: str, question: str, answer: str, reading: str) -> tuple[Prompt, str]:
    """What stands before an answer that is read from one passage, and the answer as it is written there."""
    if reading != "together":
        return one_by_one_prompt(text, question), f" {answer}"
    prompt = together_prompt([text], question)  # up to the citation, which is not scored
    return replace(prompt, prefill=prompt.prefill + together_reply(1, "")), answer


def _figure(score: Score, which: str) -> float:
    return score.mean if which == "logprob" else math.exp(score.logprob)


def pseudo_labels(
    reranker: Reranker,
    asked: Sequence[tuple[str, Sequence[str]]],
    kept: Path,
    progress: Progress = silent,
) -> list[tuple[float, ...]]:
    """For each question a cross-encoder's score of each of its passages' texts (GPL, Wang et al. 2022)."""

    def scored(batch: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [reranker.rerank(question, texts) for question, texts in batch]

    return [tuple(scores) for scores in by_batches(asked, scored, kept, progress)]
