"""Ranking measures against ir-measures; citations and refusals by hand."""

import random

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, nDCG

from fieldstone.evaluate.measures.answering import (
    citation_accuracy,
    citation_precision,
    citation_recall,
    citation_support,
    faithfulness,
    over_refusal,
    refusal_f1,
    refusal_precision,
    refusal_recall,
)
from fieldstone.evaluate.measures.ranking import (
    average_precision_at,
    ndcg_at,
    precision_at,
    recall_at,
    reciprocal_rank,
)

CASES = 1000


def test_ranking_measures_equal_those_of_ir_measures():
    chance = random.Random(0)
    documents = [f"d{i}" for i in range(20)]
    run, qrels, ours = [], [], {}
    for query in map(str, range(CASES)):
        ranked = chance.sample(documents, chance.randint(1, 20))
        grades = {id_: chance.randint(-1, 3) for id_ in chance.sample(documents, chance.randint(1, 20))}
        relevant = [{id_} for id_, grade in grades.items() if grade > 0]
        run += [ir_measures.ScoredDoc(query, id_, -rank) for rank, id_ in enumerate(ranked)]
        qrels += [ir_measures.Qrel(query, id_, grade) for id_, grade in grades.items()]
        ours[query, RR] = reciprocal_rank(ranked, relevant)
        for k in (1, 3, 10, 25):
            ours |= {
                (query, R @ k): recall_at(k, ranked, relevant),
                (query, P @ k): precision_at(k, ranked, relevant),
                (query, RR @ k): reciprocal_rank(ranked, relevant, k),
                (query, AP @ k): average_precision_at(k, ranked, relevant),
                (query, nDCG @ k): ndcg_at(k, ranked, grades),
            }
    measures = {measure for _, measure in ours}
    theirs = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc(measures, qrels, run)}
    answered = [key for key, value in ours.items() if value is not None]
    assert len(answered) > 0.9 * len(ours)
    np.testing.assert_allclose([ours[key] for key in answered], [theirs[key] for key in answered])
    assert not any(theirs.get(key) for key in ours.keys() - set(answered))


def test_one_passage_of_a_group_is_enough():
    ranked = ["x", "b", "a", "c"]
    assert recall_at(1, ranked, [{"a", "b"}]) == 0
    assert recall_at(2, ranked, [{"a", "b"}]) == 1
    assert recall_at(2, ranked, [{"a", "b"}, {"c"}, set()]) == 0.5
    assert recall_at(2, ranked, [{"a"}, {"b"}]) == 0.5
    assert reciprocal_rank(ranked, [{"a", "b"}]) == 0.5
    assert reciprocal_rank(ranked, [{"a"}], k=2) == 0
    assert recall_at(3, ranked, []) is recall_at(3, ranked, [set()]) is None


def test_nothing_found_scores_nothing():
    assert (recall_at(5, [], [{"a"}]), reciprocal_rank([], [{"a"}]), ndcg_at(10, [], {"a": 1})) == (0, 0, 0)


def test_citation_accuracy():
    assert citation_accuracy(["a"], [{"a", "b"}], abstained=False) == 1
    assert citation_accuracy(["a", "x"], [{"a", "b"}], abstained=False) == 0.5
    assert citation_accuracy([], [{"a"}], abstained=False) == 0
    assert citation_accuracy([], [{"a"}], abstained=True) is None
    assert citation_accuracy(["a"], [], abstained=False) is None


def test_citation_precision_counts_citations():
    assert citation_precision(["a", "x", "a"], [{"a", "b"}], abstained=False) == (2, 3)
    assert citation_precision([], [{"a"}], abstained=False) == (0, 0)
    assert citation_precision(["a"], [{"a"}], abstained=True) is None
    assert citation_precision(["a"], [], abstained=False) is None


def test_citation_recall_counts_evidence():
    assert citation_recall(["a", "x"], [{"a", "b"}, {"c"}], abstained=False) == 0.5
    assert citation_recall(["b", "a", "c"], [{"a", "b"}, {"c"}], abstained=False) == 1
    assert citation_recall([], [{"a"}], abstained=False) == 0
    assert citation_recall(["a"], [{"a"}], abstained=True) is None
    assert citation_recall(["a"], [], abstained=False) is None


def test_support_of_the_citations_and_of_the_answer():
    assert citation_support([1.0, 0.25], abstained=False) == 0.625
    assert faithfulness([0.25, 1.0], abstained=False) == 1
    assert (citation_support([], abstained=False), faithfulness([], abstained=False)) == (None, 0)
    assert citation_support([1.0], abstained=True) is faithfulness([1.0], abstained=True) is None


@pytest.mark.parametrize(
    ("abstained", "answerable", "precision", "recall", "f1", "over"),
    [
        (True, False, (1, 1), 1, (2, 2), None),
        (True, True, (0, 1), None, (0, 1), 1),
        (False, False, (0, 0), 0, (0, 1), None),
        (False, True, (0, 0), None, (0, 0), 0),
    ],
)
def test_refusals(abstained, answerable, precision, recall, f1, over):
    case = {"abstained": abstained, "answerable": answerable}
    measures = refusal_precision, refusal_recall, refusal_f1, over_refusal
    assert tuple(measure(**case) for measure in measures) == (precision, recall, f1, over)
