"""Synthetic questions against human ones: gaps, Kendall's tau against scipy, and when it warns."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from fieldstone.evaluate.statistics.agreement import ENOUGH, WRITTEN, YOURS, _leads, _tau, agreement, ranking
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, unpaired_difference
from fieldstone.evaluate.statistics.summary import Measured


def measured(random, chances, questions=100, documents=20, measure="F1"):
    """Systems that are right so often, on the same questions."""
    hard = random.random(questions)
    values = {name: [(hard < chance).astype(float).tolist()] for name, chance in chances.items()}
    clusters = [f"d{i % documents}" for i in range(questions)]
    return Measured(tuple(chances), {measure: values}, clusters)


def both(human, synthetic, seed=1, **how):
    random = np.random.default_rng(seed)
    return measured(random, human, **how), measured(random, synthetic, **how)


def test_sets_that_rank_alike_are_said_to():
    human, synthetic = both({"a": 0.4, "b": 0.6}, {"a": 0.6, "b": 0.8})
    found = agreement(human, synthetic)
    assert (found.human, found.synthetic) == (YOURS, WRITTEN)
    assert (found.rankings["F1"].tau, found.rankings["F1"].alike) == (1.0, True)
    assert found.rankings["F1"].probability > 0.99
    assert found.warnings == ()


def test_the_gap_is_synthetic_minus_human_with_the_interval_of_both():
    human, synthetic = both({"a": 0.4, "b": 0.6}, {"a": 0.6, "b": 0.8})
    gap = agreement(human, synthetic).gaps["F1"]["b"]
    assert gap.human == bootstrap_mean(human.values["F1"]["b"][0], human.clusters)
    assert gap.synthetic == bootstrap_mean(synthetic.values["F1"]["b"][0], synthetic.clusters)
    assert gap.gap == unpaired_difference(gap.synthetic, gap.human)
    assert gap.gap.value > 0


def test_sets_that_rank_the_other_way_round_are_warned_of():
    found = agreement(*both({"a": 0.4, "b": 0.6}, {"a": 0.8, "b": 0.6}))
    assert (found.rankings["F1"].tau, found.rankings["F1"].alike) == (-1.0, False)
    assert found.rankings["F1"].probability < 0.01
    assert found.warnings == (
        "the synthetic questions rank the systems the other way round on F1: go by the human ones",
    )


def test_a_ranking_that_cannot_be_told_is_warned_of():
    found = agreement(*both({"a": 0.60, "b": 0.62}, {"a": 0.5, "b": 0.8}))
    assert found.rankings["F1"].alike is None
    assert 0.05 < found.rankings["F1"].probability < 0.95
    assert "cannot be told on F1: the systems lie too close together" in found.warnings[0]


def test_too_few_human_questions_are_warned_of():
    random = np.random.default_rng(2)
    few = measured(random, {"a": 0.1, "b": 0.9}, ENOUGH - 1)
    found = agreement(few, measured(random, {"a": 0.1, "b": 0.9}))
    assert found.rankings == {}
    assert found.gaps["F1"]["a"].human.n == ENOUGH - 1
    assert found.warnings == (
        "29 human questions are too few to say whether the synthetic ones rank the systems alike on F1; "
        "it takes 30 at least",
    )


def test_one_system_has_gaps_and_no_ranking():
    found = agreement(*both({"a": 0.4}, {"a": 0.7}))
    assert set(found.gaps["F1"]) == {"a"}
    assert found.rankings == {}
    assert found.warnings == ()


def test_equal_systems_have_no_ranking():
    found = agreement(*both({"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.7}))
    assert found.rankings == {}
    assert found.warnings == ()


def test_what_one_set_lacks_is_left_out_and_so_are_times():
    random = np.random.default_rng(3)
    human = measured(random, {"a": 0.4, "b": 0.6})
    more = Measured(human.systems, {**human.values, "seconds": human.values["F1"], "EM": {}}, human.clusters)
    other = measured(random, {"b": 0.6, "c": 0.6})
    values = {**other.values, "seconds": other.values["F1"], "EM": {}, "recall@1": other.values["F1"]}
    found = agreement(more, Measured(other.systems, values, other.clusters))
    assert {measure: set(its) for measure, its in found.gaps.items()} == {"F1": {"b"}}


def test_tau_equals_scipy():
    random = np.random.default_rng(4)
    for _ in range(1000):
        first, second = random.integers(0, 4, (2, random.integers(2, 7))).astype(float)
        theirs = stats.kendalltau(first, second).statistic
        ours = _tau(_leads(first[None]), _leads(second[None]))
        assert (ours is None) == bool(np.isnan(theirs))
        if ours is not None:
            assert ours == pytest.approx(theirs)


def test_several_systems_and_several_seeds():
    random = np.random.default_rng(5)
    chances = {"a": 0.2, "b": 0.5, "c": 0.8}
    runs = [measured(random, chances) for _ in range(3)]
    values = {name: [run.values["F1"][name][0] for run in runs] for name in chances}
    human = Measured(tuple(chances), {"F1": values}, runs[0].clusters)
    found = ranking(human, measured(random, chances), "F1")
    assert (found.tau, found.alike) == (1.0, True)
    half = ranking(human, measured(random, {"a": 0.55, "b": 0.2, "c": 0.5}), "F1")
    assert half.tau == pytest.approx(-1 / 3)


def test_equals_are_rarely_said_to_rank_alike_or_otherwise():
    """Where one set has no difference, each is said of about 5 data sets in 100 at most."""
    random = np.random.default_rng(6)
    said = {True: 0, False: 0, None: 0}
    for _ in range(300):
        human = {"F1": {name: [random.integers(0, 2, 60).astype(float).tolist()] for name in "ab"}}
        synthetic = measured(random, {"a": 0.4, "b": 0.7}, 60)
        clusters = [str(i) for i in range(60)]
        found = ranking(Measured(("a", "b"), human, clusters), synthetic, "F1", samples=400)
        said[found.alike] += 1
    assert said[True] <= stats.binom.ppf(0.999, 300, 0.06)
    assert said[False] <= stats.binom.ppf(0.999, 300, 0.06)


def test_it_is_plain_json():
    found = json.loads(json.dumps(asdict(agreement(*both({"a": 0.4, "b": 0.6}, {"a": 0.6, "b": 0.8})))))
    assert set(found) == {"human", "synthetic", "gaps", "rankings", "warnings"}
    assert set(found["gaps"]["F1"]["a"]) == {"human", "synthetic", "gap"}
    assert set(found["rankings"]["F1"]) == {"tau", "probability", "alike"}
