"""What is measured of a search, one question at a time: pure functions of plain values.

A measure that does not apply to a question gives None, and the statistics leave such rows out. Ranked ids are
best first and hold no id twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np


def recall_at(k: int, ranked: Sequence[str], relevant: Sequence[Collection[str]]) -> float | None:
    """Share of the groups in `relevant` with at least one id among the first `k`.

    A group is a piece of evidence: all the passages that hold it, of which one is enough. A question
    with one evidence is one group, and its recall@k is 0 or 1 (also called success@k or hit rate). In
    relevance judgements such as BEIR's each document is a group of its own, and this is trec_eval's
    `recall_k`. None without a group that has a member: there is nothing to find.
    """
    groups = [group for group in relevant if group]
    top = set(ranked[:k])
    return sum(not top.isdisjoint(group) for group in groups) / len(groups) if groups else None


def reciprocal_rank(
    ranked: Sequence[str], relevant: Sequence[Collection[str]], k: int | None = None
) -> float | None:
    """One over the rank of the first relevant id, 0 where none is among the first `k` (None: all).

    Its mean is MRR (Voorhees, TREC-8 1999; trec_eval's `recip_rank`). None where nothing is relevant.
    """
    wanted = {id_ for group in relevant for id_ in group}
    if not wanted:
        return None
    return next((1 / rank for rank, id_ in enumerate(ranked[:k], 1) if id_ in wanted), 0.0)


def precision_at(k: int, ranked: Sequence[str], relevant: Sequence[Collection[str]]) -> float | None:
    """Share of the first `k` ids that are relevant, out of `k` even where fewer were found.

    As trec_eval's `P_k`. Every passage that holds evidence is relevant, whatever its group. None where
    nothing is relevant.
    """
    wanted = {id_ for group in relevant for id_ in group}
    return sum(id_ in wanted for id_ in ranked[:k]) / k if wanted else None


def average_precision_at(k: int, ranked: Sequence[str], relevant: Sequence[Collection[str]]) -> float | None:
    """Mean over the relevant ids of the precision at their rank, 0 for those not among the first `k`.

    Its mean is MAP (trec_eval's `map_cut_k`; Voorhees and Harman, TREC 2005). Every passage that holds
    evidence is relevant, whatever its group. None where nothing is relevant.
    """
    wanted = {id_ for group in relevant for id_ in group}
    ranks = [rank for rank, id_ in enumerate(ranked[:k], 1) if id_ in wanted]
    return sum(found / rank for found, rank in enumerate(ranks, 1)) / len(wanted) if wanted else None


def ndcg_at(k: int, ranked: Sequence[str], grades: Mapping[str, float]) -> float | None:
    """Discounted gain of the first `k` over the best that `grades` allow.

    As in trec_eval's `ndcg_cut_k`: the gain is the grade itself, the discount log2(rank + 1), and a
    negative grade counts as 0 (Järvelin and Kekäläinen, TOIS 2002, with the log2(rank + 1) discount).
    None where no grade is above 0.
    """
    ideal = np.sort([grade for grade in grades.values() if grade > 0])[::-1][:k]
    if not len(ideal):
        return None
    gains = np.array([max(grades.get(id_, 0.0), 0.0) for id_ in ranked[:k]])
    discounts = np.log2(np.arange(max(len(gains), len(ideal))) + 2.0)
    return float((gains / discounts[: len(gains)]).sum() / (ideal / discounts[: len(ideal)]).sum())
