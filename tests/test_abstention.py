"""Risk and coverage against their definitions, counted out in another way."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from fieldstone.evaluate.report.abstention import Trial, aurc, best_aurc, risk_coverage, trial

RANDOM = np.random.default_rng(7)


def weighed(confidences, wrong):
    """The area as a weighted sum of the errors: rank i weighs (1/i + ... + 1/n) / n (Zhou et al. 2024).

    Equal confidences share the weights of their ranks.
    """
    n = len(wrong)
    weights = np.cumsum((1 / np.arange(1, n + 1))[::-1])[::-1] / n
    order = sorted(range(n), key=lambda i: -confidences[i])
    total = 0.0
    for value in set(confidences):
        ranks = [rank for rank, i in enumerate(order) if confidences[i] == value]
        errors = sum(wrong[order[rank]] for rank in ranks)
        total += errors * weights[ranks].mean()
    return total


def test_the_area_is_that_of_an_independent_formula():
    for _ in range(1000):
        n = int(RANDOM.integers(1, 40))
        confidences = RANDOM.integers(0, RANDOM.integers(1, 60), n) / 10  # many of them equal
        wrong = RANDOM.random(n) < RANDOM.random()
        assert aurc(confidences, wrong) == pytest.approx(weighed(confidences, wrong), abs=1e-12)


def test_the_area_by_hand():
    assert aurc([0.9, 0.8, 0.7], [False, True, True]) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert aurc([0.5, 0.5], [False, True]) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert aurc([1.0], [True]) == 1.0
    with pytest.raises(ValueError, match="no question"):
        aurc([], [])


def test_no_order_of_the_same_answers_has_less_area_than_the_best():
    for wrong in ([1, 0, 1, 0, 0], [1, 1, 1], [0, 0], [0, 1, 0, 0, 0, 1]):
        areas = [aurc(range(len(wrong), 0, -1), order) for order in permutations(wrong)]
        assert min(areas) == pytest.approx(best_aurc(len(wrong), sum(wrong)))


def row(number, confidence, *, answer="at ten", wanted=("at ten",), **more):
    """A row of an answering system; without an answer it refused."""
    return {
        "id": f"q{number}",
        "answers": list(wanted),
        "answer": answer or "no",
        "abstained": not answer,
        "confidence": confidence,
        "source": f"{number % 7}.md",
    } | more


def drawn(n, unsaid=True):
    """Rows of a system that refuses below .4, by chance."""
    rows = []
    for number in range(n):
        confidence = round(float(RANDOM.random()), 2)
        said = str(RANDOM.choice(["at ten", "never"]))
        more = {"abstain_below": 0.4} | ({"unsaid": said} if unsaid else {})
        wanted = ("at ten",) if RANDOM.random() < 0.7 else ()
        answer = said if confidence >= 0.4 else ""
        rows.append(row(number, confidence, answer=answer, wanted=wanted, **more))
    return rows


def test_each_point_is_what_its_threshold_does():
    rows = drawn(300)
    found = risk_coverage(rows)
    assert 10 < len(found.points) <= 24
    for point in found.points:
        answered = [r for r in rows if r["confidence"] >= point.threshold]
        wrong = [r for r in answered if not r["answers"] or (r["unsaid"] != "at ten")]
        assert point.coverage == len(answered) / 300
        assert point.risk == pytest.approx(len(wrong) / len(answered))
        assert point.low <= point.risk <= point.high
        truth = [not r["answers"] for r in rows]
        refused = [r["confidence"] < point.threshold for r in rows]
        if any(refused):
            assert point.precision == pytest.approx(precision_score(truth, refused))
        assert point.recall == pytest.approx(recall_score(truth, refused))
        assert point.f1 == pytest.approx(f1_score(truth, refused))
    assert [p.coverage for p in found.points] == sorted({p.coverage for p in found.points})
    assert found.points[-1].coverage == 1
    assert found.points[-1].precision is None


def test_where_the_system_stands():
    rows = drawn(200)
    found = risk_coverage(rows)
    answered = [r for r in rows if not r["abstained"]]
    right = sum(not r["answers"] for r in rows if r["abstained"])
    assert found.chosen.threshold == 0.4
    assert found.chosen.coverage.value == pytest.approx(len(answered) / 200)
    assert found.chosen.risk.value == pytest.approx(sum(trial(r).wrong for r in answered) / len(answered))
    assert found.chosen.risk.n == len(answered)
    assert found.chosen.precision.value == pytest.approx(right / (200 - len(answered)))
    assert found.chosen.recall.value == pytest.approx(right / found.unanswerable)
    truth, refused = [not r["answers"] for r in rows], [r["abstained"] for r in rows]
    assert found.chosen.f1.value == pytest.approx(f1_score(truth, refused))
    wrong = [trial(r).wrong for r in rows]
    assert found.aurc == pytest.approx(weighed([r["confidence"] for r in rows], wrong))
    assert found.excess == pytest.approx(found.aurc - best_aurc(200, sum(wrong)))


def test_the_curve_ends_at_the_first_answer_that_nobody_knows():
    rows = drawn(100, unsaid=False)
    found = risk_coverage(rows)
    unknown = max(r["confidence"] for r in rows if r["abstained"] and r["answers"])
    assert found.aurc is found.excess is None
    assert min(p.threshold for p in found.points) > unknown
    assert found.chosen.coverage.n == 100


def test_what_counts_as_wrong():
    assert trial(row(1, 0.5)).wrong is False
    assert trial(row(1, 0.5, answer="at nine o'clock")).wrong is True
    assert trial(row(1, 0.5, wanted=())) == Trial(0.5, True, False, False, "1.md")
    assert trial(row(1, 0.5, answer="", unsaid="at ten")).wrong is False
    assert trial(row(1, 0.5, answer="", unsaid="")).wrong is True
    assert trial(row(1, 0.5, answer="")).wrong is None
    assert trial(row(1, 0.5, answer="", wanted=(), source="")) == Trial(0.5, True, False, True, "q1")


def test_near_misses_are_told_apart_where_kinds_are_named():
    rows = drawn(40)
    for number in range(40, 60):
        kind = "near miss" if number < 52 else ""
        rows.append(row(number, 0.1 * (number % 10), answer="" if number % 4 else "x", wanted=(), kind=kind))
    found = risk_coverage([r for r in rows if r["answers"] or "kind" in r])
    assert found.kinds["near miss"].n == 12
    assert found.kinds["near miss"].value == pytest.approx(9 / 12)
    assert found.kinds["of no named kind"].n == 8
    assert risk_coverage(drawn(40)).kinds == {}


def test_a_system_without_confidence_has_no_curve():
    assert risk_coverage([row(1, None), row(2, None)]) is None
    assert risk_coverage([]) is None


def test_thresholds_that_differ_are_not_told_as_one():
    rows = [row(n, 0.5, abstain_below=0.1 * n) for n in range(3)]
    assert risk_coverage(rows).chosen.threshold is None


def test_a_system_that_refuses_everything_stands_nowhere():
    found = risk_coverage([row(n, 0.1, answer="") for n in range(4)])
    assert found.points == ()
    assert found.chosen.coverage.value == 0
    assert found.chosen.risk is None


def test_questions_whose_answer_nobody_knows_do_not_count():
    rows = [row(n, 0.5) for n in range(3)]
    assert risk_coverage([*rows, row(9, 0.9, wanted=(), relevant=["a"])]) == risk_coverage(rows)
