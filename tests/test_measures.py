"""Ranking measures against ir-measures, answer measures against a re-typing of SQuAD's script."""

import re
import string
from collections import Counter

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.evaluate.measures import (
    citation_accuracy,
    exact_match,
    ndcg_at,
    normalize_answer,
    over_refusal,
    recall_at,
    reciprocal_rank,
    refusal_precision,
    refusal_recall,
    token_f1,
)

DOCUMENTS = [f"d{i}" for i in range(20)]


@given(
    ranked=st.lists(st.sampled_from(DOCUMENTS), unique=True, min_size=1),
    grades=st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1),
    k=st.integers(1, 25),
)
def test_ranking_measures_equal_those_of_ir_measures(ranked, grades, k):
    relevant = [{id_} for id_, grade in grades.items() if grade > 0]
    ours = (
        recall_at(k, ranked, relevant),
        reciprocal_rank(ranked, relevant),
        ndcg_at(k, ranked, grades),
    )
    if not relevant:
        assert ours == (None, None, None)
        return
    measures = (ir_measures.R @ k, ir_measures.RR, ir_measures.nDCG @ k)
    run = [ir_measures.ScoredDoc("q", id_, -rank) for rank, id_ in enumerate(ranked)]
    qrels = [ir_measures.Qrel("q", id_, grade) for id_, grade in grades.items()]
    theirs = ir_measures.calc_aggregate(measures, qrels, run)
    assert ours == pytest.approx([theirs[measure] for measure in measures])


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


def squad_normalize(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def remove_punctuation(text):
        return "".join(ch for ch in text if ch not in set(string.punctuation))

    return " ".join(remove_articles(remove_punctuation(s.lower())).split())


def squad_f1(prediction, truth):
    predicted, expected = squad_normalize(prediction).split(), squad_normalize(truth).split()
    same = sum((Counter(predicted) & Counter(expected)).values())
    if same == 0:
        return 0
    precision, recall = same / len(predicted), same / len(expected)
    return 2 * precision * recall / (precision + recall)


WORDS = st.sampled_from(
    ["the", "a", "An", "cat", "cat's", "Cat.", "1,853", "-", "anthem", "été", "\t", "東京"]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=6).map(" ".join), st.text(max_size=12))


@given(prediction=TEXTS, answers=st.lists(TEXTS.filter(squad_normalize), min_size=1, max_size=4))
def test_answer_measures_equal_the_squad_script(prediction, answers):
    matches = [squad_normalize(prediction) == squad_normalize(answer) for answer in answers]
    assert exact_match(prediction, answers) == max(matches)
    assert token_f1(prediction, answers) == pytest.approx(max(squad_f1(prediction, a) for a in answers))


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("a black cat", ["cat", "the black cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
    ],
)
def test_answer_measures_by_hand(prediction, answers, em, f1):
    assert (exact_match(prediction, answers), token_f1(prediction, answers)) == (em, pytest.approx(f1))


def test_normalize_answer_keeps_words_that_begin_like_articles():
    assert normalize_answer("The  Anthem, an  aria") == "anthem aria"


def test_citation_accuracy():
    assert citation_accuracy(["a"], [{"a", "b"}], abstained=False) == 1
    assert citation_accuracy(["a", "x"], [{"a", "b"}], abstained=False) == 0.5
    assert citation_accuracy([], [{"a"}], abstained=False) == 0
    assert citation_accuracy([], [{"a"}], abstained=True) is None
    assert citation_accuracy(["a"], [], abstained=False) is None


@pytest.mark.parametrize(
    ("abstained", "answerable", "precision", "recall", "over"),
    [
        (True, False, (1, 1), 1, None),
        (True, True, (0, 1), None, 1),
        (False, False, (0, 0), 0, None),
        (False, True, (0, 0), None, 0),
    ],
)
def test_refusals(abstained, answerable, precision, recall, over):
    case = {"abstained": abstained, "answerable": answerable}
    assert (refusal_precision(**case), refusal_recall(**case), over_refusal(**case)) == (
        precision,
        recall,
        over,
    )
