"""The gate: simulated equals do not get through, a real gain does, harm never does, and it says why."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstone.evaluate.statistics.bootstrap import FEWEST, Estimate, paired_difference
from fieldstone.evaluate.statistics.significance import chance_of_luck
from fieldstone.gate import as_json, from_json, judge


def simulate(random, documents, questions=300, shift=0.0, kind="recall", spread=0.0):
    """Values of two systems on the same questions: (candidate, incumbent, document of each question).

    Questions differ in how hard they are, and so do documents; a run adds noise of its own. `shift` makes the
    candidate better: 0.27 is about 5 points of recall, 0.24 of F1. `spread` lets each system get on
    differently with each document. F1 heaps up at 0 and 1, as it does.
    """
    document = random.choice(documents, questions, p=random.dirichlet(np.full(documents, 2.0)))
    easy = 0.8 + random.normal(0, 0.8, documents)[document] + random.normal(0, 1.5, questions)
    runs = []
    for better in (shift, 0.0):
        own = random.normal(0, spread, documents)[document] + random.normal(0, 0.6, questions)
        score = 1 / (1 + np.exp(-1.5 * (easy + own + better)))
        f1 = np.where(score < 0.2, 0.0, np.where(score > 0.8, 1.0, score))
        runs.append((f1 if kind == "f1" else np.round(score)).tolist())
    return runs[0], runs[1], document.tolist()


def verdicts(seed, runs, documents, *, finer=False, **how):
    """The gate's verdicts on so many simulated pairs."""
    random = np.random.default_rng(seed)
    for i in range(runs):
        a, b, clusters = simulate(random, documents, **how)
        passages = list(range(len(a))) if finer else None
        yield judge("retriever", "tuned", "base", "recall@1", a, b, clusters, finer=passages, seed=i)


@pytest.mark.parametrize(
    ("documents", "kind", "spread"),
    [(4, "recall", 0.5), (8, "f1", 0.5), (20, "recall", 0.0), (100, "recall", 0.5)],
)
def test_equals_get_through_in_one_of_twenty_at_most(documents, kind, spread):
    accepted = [v.accepted for v in verdicts(1, 200, documents, kind=kind, spread=spread)]
    assert np.mean(accepted) <= 0.05
    if documents < FEWEST:
        assert not any(accepted)


def test_with_few_documents_their_passages_decide_and_equals_still_do_not_get_through():
    accepted = [v.accepted for v in verdicts(2, 200, 3, finer=True, questions=120)]
    assert np.mean(accepted) <= 0.05


@pytest.mark.parametrize(("kind", "shift"), [("recall", 0.27), ("f1", 0.24)])
def test_a_real_gain_of_five_points_mostly_gets_through(kind, shift):
    found = list(verdicts(3, 60, 40, kind=kind, shift=shift))
    assert np.mean([v.difference.value for v in found]) == pytest.approx(0.05, abs=0.01)
    assert np.mean([v.accepted for v in found]) > 0.6
    alone = verdicts(4, 60, 1, kind=kind, shift=shift, finer=True)
    assert np.mean([v.accepted for v in alone]) > 0.6


def test_what_does_harm_never_gets_through():
    for kind, documents in product(("recall", "f1"), (1, 20)):
        assert not any(v.accepted for v in verdicts(5, 40, documents, kind=kind, shift=-0.25, finer=True))


def test_one_large_document_among_small_ones_does_not_decide():
    """Most of the questions are about one document: the interval is fooled, the exchange is not."""
    clusters = [0] * 295 + [1, 2, 3, 4, 5]
    a, b = [1.0] * 300, [0.0] * 295 + [1.0] * 5
    verdict = judge("retriever", "tuned", "base", "recall@1", a, b, clusters)
    assert not verdict.accepted
    assert chance_of_luck(a, b, clusters) == 0.5


# -- guards, force, and words


def judged(a, b, **more):
    return judge("generator", "tuned", "base", "f1", a, b, list(range(len(a))), **more)


LOW, HIGH = [0.0, 0.5] * 20, [0.5, 1.0] * 20


def test_a_gain_is_taken_into_use():
    verdict = judged(HIGH, LOW)
    assert (verdict.accepted, verdict.forced, verdict.questions_needed) == (True, False, None)
    assert verdict.reason == (
        "tuned was tried in the place of base and taken into use: "
        "its f1 is 0.500 higher (95 % interval +0.500 to +0.500, 40 questions)"
    )


def test_a_loss_says_that_more_questions_would_not_help():
    verdict = judged(LOW, HIGH)
    assert (verdict.accepted, verdict.questions_needed) == (False, None)
    assert "turned down: its f1 is 0.500 lower" in verdict.reason
    assert verdict.reason.endswith("and more questions would not help")


def test_a_gain_within_the_noise_says_how_many_questions_would_have_told():
    a, b, clusters = simulate(np.random.default_rng(9), 30, questions=120, shift=0.2)
    verdict = judge("retriever", "tuned", "base", "recall@1", a, b, clusters)
    assert verdict.difference == paired_difference(a, b, clusters)
    assert not verdict.accepted
    assert verdict.questions_needed > 120
    assert f"may be luck; about {verdict.questions_needed:,} questions would have told" in verdict.reason


def test_an_interval_that_ends_at_nothing_wants_more_questions_than_there_were():
    clusters = [n // 4 for n in range(40)]  # the gain lies in one document, which some samples lack
    verdict = judge("generator", "tuned", "base", "f1", [1.0] * 4 + [0.0] * 36, [0.0] * 40, clusters)
    assert verdict.difference.low == 0 < verdict.difference.value
    assert verdict.questions_needed > 40


def test_five_questions_never_suffice():
    verdict = judged([1.0] * 5, [0.0] * 5)
    assert not verdict.accepted
    assert verdict.questions_needed == FEWEST
    assert "fewer than 6 questions tell nothing; about 6 would have" in verdict.reason
    assert judged([1.0] * 6, [0.0] * 6).accepted


def test_the_same_is_no_gain():
    verdict = judged(HIGH, HIGH)
    assert not verdict.accepted
    assert "its f1 is the same (" in verdict.reason
    assert verdict.questions_needed is None


def test_nothing_to_measure_is_no_gain():
    verdict = judged([None] * 9, LOW[:9])
    assert (verdict.accepted, verdict.difference) == (False, None)
    assert "f1 applies to none of the questions" in verdict.reason
    assert not judged([], []).accepted


def test_few_documents_are_named():
    documents = ["a"] * 20 + ["b"] * 20
    strict = judge("generator", "tuned", "base", "f1", HIGH, LOW, documents)
    assert not strict.accepted
    assert "two equals would differ as much in 25.0 % of cases" in strict.reason
    verdict = judge("generator", "tuned", "base", "f1", HIGH, LOW, documents, finer=list(range(40)))
    assert verdict.accepted
    assert verdict.reason.endswith("about only 2 documents, so this says nothing about others")
    many = list(range(40))
    assert judge("generator", "tuned", "base", "f1", HIGH, LOW, many, finer=[0] * 40).accepted


def test_finer_clusters_stand_in_where_the_measure_applies_in_few_documents_only():
    documents = [i // 5 for i in range(40)]
    a = [value if i < 20 else None for i, value in enumerate(HIGH)]
    verdict = judge("generator", "tuned", "base", "f1", a, LOW, documents, finer=list(range(40)))
    assert verdict.accepted
    assert "about only 4 documents" in verdict.reason


def test_a_guard_turns_down_what_does_harm_elsewhere():
    harmed = judged(HIGH, LOW, guards={"verified": (LOW, HIGH), "abstains": (LOW, LOW)})
    assert not harmed.accepted
    assert "higher" in harmed.reason
    assert "it does harm: its verified is 0.500 lower" in harmed.reason
    assert [name for name, _ in harmed.guards] == ["verified", "abstains"]
    within_noise = judged(HIGH, LOW, guards={"verified": ([*HIGH[:39], 0.9], HIGH)})
    assert within_noise.accepted
    few = judged(HIGH, LOW, guards={"verified": ([0.0, *[None] * 39], [1.0, *[None] * 39])})
    assert few.accepted, "one question is no harm"
    assert judged(HIGH, LOW, guards={"verified": ([None] * 40, HIGH)}).guards == ()


def test_force_accepts_and_keeps_against_what():
    verdict = judged(LOW, HIGH, guards={"verified": (LOW, HIGH)}, force=True)
    assert (verdict.accepted, verdict.forced) == (True, True)
    assert "forced into use against the verdict: its f1 is 0.500 lower" in verdict.reason
    assert "it does harm: its verified" in verdict.reason
    won = judged(HIGH, LOW, force=True)
    assert (won.accepted, won.forced) == (True, False), "what wins needs no force"


def test_the_same_verdict_every_time():
    a, b, clusters = simulate(np.random.default_rng(10), 30)
    first, second = (judge("retriever", "a", "b", "recall@1", a, b, clusters, seed=4) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("values", [[float("nan")] * 40, [1.0]])
def test_wrong_values_are_refused(values):
    with pytest.raises(ValueError):
        judged(values, LOW)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.3, 1.0, None]), min_size=1, max_size=20),
    st.lists(st.sampled_from([0.0, 0.3, 1.0, None]), min_size=20, max_size=20),
    st.booleans(),
)
def test_a_verdict_goes_to_json_and_back(a, b, force):
    verdict = judged(a, b[: len(a)], guards={"verified": (b[: len(a)], a)}, force=force)
    kept = json.loads(json.dumps(as_json(verdict)))
    assert from_json(kept) == verdict
    assert verdict.accepted or not force


def test_what_is_no_verdict_is_refused():
    kept = as_json(judged(HIGH, LOW))
    assert kept["difference"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5, "n": 40})
    assert isinstance(from_json(kept).difference, Estimate)
    with pytest.raises(ValueError):
        from_json(kept | {"part": "engine"})
