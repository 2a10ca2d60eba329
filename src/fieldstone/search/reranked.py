"""Reranking: a second, closer look at the best candidates."""

from __future__ import annotations

from collections.abc import Sequence

from fieldstone.models import Generator, Reranker
from fieldstone.prompts import likelihood_prompt
from fieldstone.search.fused import best
from fieldstone.search.stores import Found


def rerank_by_likelihood(
    generator: Generator,
    questions: Sequence[str],
    candidates: Sequence[Found],
    texts: dict[str, str],
    weight: float,
) -> tuple[list[Found], list[Found]]:
    """Candidates reordered by how likely their text makes the question; and those log-likelihoods a token.

    Query likelihood as in UPR (Sachan et al. 2022, equation 3), mixed with the candidates' own scores:
    `weight` on the former, both scaled to 0..1 over the candidates. `texts`: passage id -> text with context.
    """
    prompts, wanted = [], []
    for question, found in zip(questions, candidates, strict=True):
        for id_, _ in found:
            prompts.append(likelihood_prompt(texts[id_]))
            wanted.append(f" {question.strip()}")
    means = iter([score.mean for score in generator.score(prompts, wanted)])
    reranked, likelihoods = [], []
    for found in candidates:
        likelihood = [(id_, next(means)) for id_, _ in found]
        likelihoods.append(likelihood)
        reranked.append(_mixed(found, likelihood, weight))
    return reranked, likelihoods


def rerank_by_cross_encoder(
    reranker: Reranker,
    questions: Sequence[str],
    candidates: Sequence[Found],
    texts: dict[str, str],
    weight: float = 1.0,
) -> tuple[list[Found], list[Found]]:
    """Candidates reordered by a cross-encoder; and its scores.

    With `weight` 1 its scores alone count, and stand as they are; below, they are mixed with the candidates'
    own as in `rerank_by_likelihood`.
    """
    reranked, scores = [], []
    for question, found in zip(questions, candidates, strict=True):
        given = reranker.rerank(question, [texts[id_] for id_, _ in found])
        scored = [(id_, score) for (id_, _), score in zip(found, given, strict=True)]
        scores.append(scored)
        reranked.append(best(dict(scored), len(scored)) if weight == 1 else _mixed(found, scored, weight))
    return reranked, scores


def _mixed(found: Found, looked: Found, weight: float) -> Found:
    """The candidates by their own scores and those of the closer look, `weight` on the latter."""
    first, second = dict(found), dict(_scaled(looked))
    mixed = {id_: (1 - weight) * first[id_] + weight * second[id_] for id_ in first}
    return best(mixed, len(mixed))


def _scaled(ranking: Found) -> Found:
    """Scores mapped to 0..1: the lowest of the ranking to 0, the highest to 1."""
    if not ranking:
        return []
    low, high = min(s for _, s in ranking), max(s for _, s in ranking)
    return [(id_, (score - low) / (high - low) if high > low else 1.0) for id_, score in ranking]
