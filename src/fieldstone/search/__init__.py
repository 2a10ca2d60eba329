"""Search: questions in, the passages that answer them out.

Dense and lexical searches are fused, then a closer look reorders the best: a cross-encoder where one is
given, or the generator's own likelihood of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldstone.errors import SettingsError
from fieldstone.library import Library
from fieldstone.models import Generator, Reranker
from fieldstone.records import Hit
from fieldstone.search.dense import DenseIndex
from fieldstone.search.filters import Filter
from fieldstone.search.fused import fuse_ranks, fuse_scores
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.reranked import rerank_by_cross_encoder, rerank_by_likelihood
from fieldstone.search.stores import Found
from fieldstone.settings import SearchSettings

__all__ = ["Filter", "Index", "search"]


@dataclass(frozen=True, slots=True)
class Index:
    """What a search needs, opened. What the settings do not ask for may be None."""

    library: Library
    lexical: LexicalIndex
    dense: DenseIndex | None = None
    generator: Generator | None = None
    reranker: Reranker | None = None


def search(
    index: Index,
    questions: Sequence[str],
    settings: SearchSettings,
    k: int = 10,
    filter: Filter | None = None,
) -> list[list[Hit]]:
    """The `k` best passages of each question, best first, with the scores that each search gave them."""
    if settings.mode != "dense":
        index.lexical.refresh()  # here, where it may wait for another process without holding a snapshot
    if index.dense is not None:
        index.dense.refresh()
    with index.library.snapshot():
        only = (filter or Filter()).passages(index.library)
        depth = max(settings.candidates, k)
        found: dict[str, list[Found]] = {}
        if settings.mode != "dense":
            found["lexical"] = index.lexical.search(questions, depth, only)
        if settings.mode != "lexical":
            if index.dense is None:
                raise SettingsError(f"search.mode = {settings.mode} needs an encoder; set models.encoder")
            found["dense"] = index.dense.search(questions, depth, only)
        if settings.mode == "fused":
            found["fused"] = [
                _fuse(d, x, settings, depth) for d, x in zip(found["dense"], found["lexical"], strict=True)
            ]
        ranked = [ranking[: max(k, settings.rerank_depth)] for ranking in found[settings.mode]]
        by: str = settings.mode
        if settings.rerank != "none":
            by = settings.rerank
            ranked, found[by] = _rerank(index, questions, ranked, settings)
        return [
            _hits(
                index.library, ranking[:k], by, {name: dict(rankings[i]) for name, rankings in found.items()}
            )
            for i, ranking in enumerate(ranked)
        ]


def _fuse(dense: Found, lexical: Found, settings: SearchSettings, k: int) -> Found:
    if settings.fusion == "rrf":
        return fuse_ranks([dense, lexical], k)
    return fuse_scores(dense, lexical, settings.dense_weight, k)


def _rerank(
    index: Index, questions: Sequence[str], ranked: list[Found], settings: SearchSettings
) -> tuple[list[Found], list[Found]]:
    """The rankings with their heads reordered, and the scores that the closer look gave."""
    heads = [ranking[: settings.rerank_depth] for ranking in ranked]
    present = index.library.passages(sorted({id_ for head in heads for id_, _ in head}))
    texts = index.library.passage_texts(present)
    heads = [[pair for pair in head if pair[0] in texts] for head in heads]
    if settings.rerank == "likelihood":
        if index.generator is None:
            raise SettingsError("search.rerank = likelihood needs a generator; set models.generator")
        heads, scores = rerank_by_likelihood(
            index.generator, questions, heads, texts, settings.likelihood_weight
        )
    else:
        if index.reranker is None:
            raise SettingsError("search.rerank = cross-encoder needs a reranker; set models.reranker")
        heads, scores = rerank_by_cross_encoder(
            index.reranker, questions, heads, texts, settings.reranker_weight
        )
    tails = [ranking[settings.rerank_depth :] for ranking in ranked]
    # a tail keeps its order; its scores, of another scale, are put below the head's lowest
    return [head + _below(head, tail) for head, tail in zip(heads, tails, strict=True)], scores


def _below(head: Found, tail: Found) -> Found:
    floor = min((score for _, score in head), default=0.0)
    return [(id_, floor - rank) for rank, (id_, _) in enumerate(tail, start=1)]


def _hits(library: Library, ranking: Found, by: str, scores: dict[str, dict[str, float]]) -> list[Hit]:
    passages = {p.id: p for p in library.passages([id_ for id_, _ in ranking])}
    present = [(id_, score) for id_, score in ranking if id_ in passages]
    return [
        Hit(passages[id_], score, rank, by, {name: s[id_] for name, s in scores.items() if id_ in s})
        for rank, (id_, score) in enumerate(present, start=1)
    ]
