"""What rows come to: systems, pairs, runs, and what is said of few documents."""

import pytest

from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.run import Judged, summarise
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, paired_difference
from fieldstone.evaluate.statistics.quantile import bootstrap_quantile
from fieldstone.evaluate.statistics.significance import chance_of_luck, quantile_luck
from fieldstone.evaluate.statistics.summary import measured, notes


def judged(questions=20, documents=10):
    return [Judged(Question(f"q{i}", "?", ("a",), f"d{i % documents}"), ()) for i in range(questions)]


def rows(system, values, **more):
    return [
        {"system": system, "id": f"q{i}", "measures": value | {"seconds": 1.0 + i}, **more}
        for i, value in enumerate(values)
    ]


A = [float(i % 2) for i in range(20)]
B = [float(i % 5 > 0) for i in range(20)]
SEARCH = rows("search", [{"recall@1": a} for a in A])
ANSWER = rows("answer", [{"recall@1": b, "F1": b, "over-refusal": 1 - b} for b in B])
MEASURES = ("recall@1", "F1", "over-refusal", "seconds", "latency-p95")


def test_estimates_differences_and_tests_of_every_pair():
    its = judged()
    found = summarise([*SEARCH, *ANSWER], its, ["search", "answer"], MEASURES)
    documents = [item.question.source for item in its]
    assert list(found.systems["answer"]) == ["recall@1", "F1", "over-refusal", "seconds"]
    assert found.systems["search"]["recall@1"] == bootstrap_mean(A, documents)
    assert found.differences["answer - search"]["recall@1"] == paired_difference(B, A, documents)
    test = found.tests["answer - search"]["recall@1"]
    assert test.p == test.holm == chance_of_luck(B, A, documents, both_sides=True)
    assert (test.wins, test.losses) == (sum(b > a for a, b in zip(A, B, strict=True)), 2)
    assert set(found.tests["answer - search"]) == {"recall@1"}
    assert "seconds" not in found.differences["answer - search"]  # a batch's, alike for its questions


def test_a_win_is_what_is_better():
    other = rows("other", [{"over-refusal": 1.0} for _ in B])
    found = summarise([*ANSWER, *other], judged(), ["answer", "other"], MEASURES)
    test = found.tests["other - answer"]["over-refusal"]
    assert (test.wins, test.losses) == (0, sum(B))


def test_several_systems_are_corrected():
    third = rows("third", [{"recall@1": 1.0 - a} for a in A])
    found = summarise([*SEARCH, *ANSWER, *third], judged(), ["search", "answer", "third"], MEASURES)
    its = [tests["recall@1"] for tests in found.tests.values()]
    assert len(its) == 3
    assert min(test.holm for test in its) == pytest.approx(min(1.0, 3 * min(test.p for test in its)))


def test_rows_of_several_seeds_are_runs():
    both = [*rows("a", [{"F1": a} for a in A], seed=1), *rows("a", [{"F1": b} for b in B], seed=2)]
    found = measured(both, judged(), ["a"], ["F1"])
    assert found.values == {"F1": {"a": [A, B]}}
    assert summarise(both, judged(), ["a"], ["F1"]).systems["a"]["F1"].value == pytest.approx(
        (sum(A) + sum(B)) / 40
    )


def test_a_quantile_has_an_interval_and_a_test():
    timed = [rows(name, [{"latency-p95": 1.0 + i} for i in range(20)]) for name in "ab"]
    found = summarise([row for its in timed for row in its], judged(), ["a", "b"], ["latency-p95"])
    documents = [item.question.source for item in judged()]
    assert found.systems["a"]["latency-p95"] == bootstrap_quantile(
        [1.0 + i for i in range(20)], documents, 0.95
    )
    assert found.differences["b - a"]["latency-p95"].value == 0
    test = found.tests["b - a"]["latency-p95"]
    assert (test.p, test.wins, test.ties, test.losses, test.detectable) == (1.0, 0, 20, 0, None)
    slow = [rows("c", [{"latency-p95": 3.0 + i} for i in range(20)]), timed[0]]
    found = summarise([row for its in slow for row in its], judged(), ["a", "c"], ["latency-p95"])
    test = found.tests["c - a"]["latency-p95"]
    assert (test.wins, test.losses) == (0, 20)  # less is better
    assert test.p == quantile_luck(*([1.0 + i + lag for i in range(20)] for lag in (2, 0)), documents, 0.95)


def test_few_documents_are_said_to_be_few():
    assert notes(judged(documents=10), 2) == []
    assert notes(judged(documents=1), 2) == [
        "questions about only one document: the intervals say nothing about others"
    ]
    assert "only 4 documents" in notes(judged(documents=4), 2)[0]
    assert notes(judged(documents=6), 4) == [
        "6 documents are too few to tell 6 pairs of systems apart: compare fewer systems, or ask about 8 "
        "documents"
    ]
    assert measured(SEARCH, judged(documents=5), ["search"], MEASURES).clusters[:2] == ["q0", "q1"]
    assert measured(SEARCH, judged(documents=6), ["search"], MEASURES).clusters[:2] == ["d0", "d1"]
