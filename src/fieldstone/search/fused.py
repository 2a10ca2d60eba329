"""Fusion: one ranking out of a dense and a lexical one."""

from __future__ import annotations

from collections.abc import Sequence

from fieldstone.search.stores import Found

RRF_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)."""


def fuse_ranks(rankings: Sequence[Found], k: int) -> Found:
    """Reciprocal rank fusion: the sum of 1 / (60 + rank) over the rankings that hold a passage."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, (id_, _) in enumerate(ranking, start=1):
            scores[id_] = scores.get(id_, 0.0) + 1 / (RRF_K + rank)
    return best(scores, k)


def fuse_scores(dense: Found, lexical: Found, dense_weight: float, k: int) -> Found:
    """Weighted sum of scores, each divided by the highest of its ranking; what a ranking lacks scores 0.

    The convex combination of Bruch, Gai and Ingber (2023), equation 2, scaled from a fixed lowest score
    (their TM2C2, but with 0 for cosines too, below which none of the first hundred falls).
    """
    scores: dict[str, float] = {}
    for ranking, weight in ((dense, dense_weight), (lexical, 1 - dense_weight)):
        highest = max((score for _, score in ranking), default=0.0)
        for id_, score in ranking:
            if score > 0:
                scores[id_] = scores.get(id_, 0.0) + weight * score / highest
    return best(scores, k)


def best(scores: dict[str, float], k: int) -> Found:
    """The `k` highest scores; equal scores in the order of their ids, so that a rerun agrees with itself."""
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
