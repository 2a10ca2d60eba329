"""What is measured, one question at a time: pure functions of plain values.

A measure that does not apply to a question gives None; `compare` leaves such rows out. Ranked ids are
best first and hold no id twice. An abstention is the empty prediction.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


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


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and surplus white space.

    To the letter as in the evaluation script of SQuAD (Rajpurkar et al., EMNLP 2016).
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, answers: Collection[str]) -> float:
    """1 if the normalised prediction equals one of the normalised answers, else 0 (SQuAD v1.1).

    Without answers the question is unanswerable, and 1 means that the system abstained (SQuAD v2.0).
    """
    predicted = normalize_answer(prediction)
    return float(predicted in {normalize_answer(answer) for answer in answers or ("",)})


def token_f1(prediction: str, answers: Collection[str]) -> float:
    """F1 of the normalised words that prediction and answer share, for the best of the answers (SQuAD v1.1).

    Without answers: 1 if the system abstained, else 0 (SQuAD v2.0). Words are what white space divides,
    so in Chinese, Japanese or Thai this is close to `exact_match`.
    """
    predicted = normalize_answer(prediction).split()
    return max(_f1(predicted, normalize_answer(answer).split()) for answer in answers or ("",))


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * shared / (len(predicted) + len(expected))


def citation_accuracy(
    cited: Collection[str], relevant: Sequence[Collection[str]], *, abstained: bool
) -> float | None:
    """Share of the cited passages that hold evidence, 0 where an answer cites nothing.

    With one citation an answer this is the citation accuracy of ALoFTRAG. None where the system
    abstained or there is no evidence to cite.
    """
    wanted = {id_ for group in relevant for id_ in group}
    if abstained or not wanted:
        return None
    return sum(id_ in wanted for id_ in cited) / len(cited) if cited else 0.0


def refusal_precision(*, abstained: bool, answerable: bool) -> tuple[float, float]:
    """(rightly abstained, abstained): summed over questions, the share of abstentions that were right.

    A pair, because how many questions the share is of depends on the system.
    """
    return float(abstained and not answerable), float(abstained)


def refusal_recall(*, abstained: bool, answerable: bool) -> float | None:
    """1 if the system abstained from an unanswerable question; None for an answerable one."""
    return None if answerable else float(abstained)


def over_refusal(*, abstained: bool, answerable: bool) -> float | None:
    """1 if the system abstained from an answerable question; None for an unanswerable one."""
    return float(abstained) if answerable else None
