"""The bootstrap against a plain loop, against scipy, and against the truth in simulations."""

import time

import numpy as np
import pytest
from scipy import stats

from fieldstone.evaluate.statistics.bootstrap import (
    FEWEST,
    Estimate,
    bootstrap_mean,
    paired_difference,
    questions_to_tell,
    student_quantile,
    student_tail,
    tails,
    unpaired_difference,
)


def simulate(random, documents=40, a=4.0, b=2.0):
    """Right or wrong answers, whose chance differs by document; the mean over all is a / (a + b)."""
    sizes = random.integers(3, 20, documents)
    chances = random.beta(a, b, documents)
    values = np.concatenate([random.random(n) < p for n, p in zip(sizes, chances, strict=True)])
    return values.astype(float).tolist(), np.repeat(np.arange(documents), sizes).tolist()


def loop(values, clusters, samples, seed):
    """The same bootstrap, document by document."""
    members = {}
    for value, cluster in zip(values, clusters, strict=True):
        if value is not None:
            members.setdefault(cluster, []).append(value if isinstance(value, tuple) else (value, 1.0))
    groups = list(members.values())
    random = np.random.default_rng(seed)
    means = []
    for _ in range(samples):
        drawn = [pair for i in random.integers(0, len(groups), len(groups)) for pair in groups[i]]
        below = sum(pair[1] for pair in drawn)
        if below:
            means.append(sum(pair[0] for pair in drawn) / below)
    return np.quantile(means, tails(0.95, len(groups)))


def test_equals_the_loop():
    values, clusters = simulate(np.random.default_rng(1))
    values[::7] = [None] * len(values[::7])
    estimate = bootstrap_mean(values, clusters, samples=300, seed=5)
    there = [value for value in values if value is not None]
    assert estimate.value == pytest.approx(np.mean(there))
    assert estimate.n == len(there)
    assert (estimate.low, estimate.high) == pytest.approx(loop(values, clusters, 300, 5))


def test_ratios_are_formed_after_summing():
    random = np.random.default_rng(2)
    right, clusters = simulate(random)
    refused = (random.random(len(right)) < 0.2).astype(float)
    pairs = list(zip((refused * right).tolist(), refused.tolist(), strict=True))
    estimate = bootstrap_mean(pairs, clusters, samples=300)
    assert estimate.value == pytest.approx((refused * right).sum() / refused.sum())
    assert estimate.n == refused.sum()
    assert (estimate.low, estimate.high) == pytest.approx(loop(pairs, clusters, 300, 0))


def test_equals_scipy_where_every_question_has_its_document():
    values = np.random.default_rng(3).random(200)
    clusters = list(range(200))
    low, high = tails(0.95, 200)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=9999,
        confidence_level=high - low,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = bootstrap_mean(values.tolist(), clusters, samples=9999)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_paired_difference_equals_scipy():
    random = np.random.default_rng(4)
    a, b = random.random(200), random.random(200) - 0.1
    low, high = tails(0.95, 200)
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=9999,
        confidence_level=high - low,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = paired_difference(a.tolist(), b.tolist(), list(range(200)), samples=9999)
    assert ours.value == pytest.approx(a.mean() - b.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_paired_difference_of_numbers_is_the_mean_of_the_differences():
    a, clusters = simulate(np.random.default_rng(5))
    b = [None if i % 5 == 0 else 1 - value for i, value in enumerate(a)]
    rows = [None if y is None else x - y for x, y in zip(a, b, strict=True)]
    assert paired_difference(a, b, clusters) == bootstrap_mean(rows, clusters)


def test_paired_difference_of_ratios():
    a, b = [(1, 1), (0, 1), (0, 0), (1, 1)], [(1, 1), (0, 0), (0, 1), (0, 0)]
    estimate = paired_difference(a, b, [1, 1, 2, 2])
    assert estimate.value == pytest.approx(2 / 3 - 1 / 2)
    assert estimate.n == 4


# -- coverage: how often an interval of 95 % holds the truth


def independent(random, documents=None):
    """F1 of 80 questions, each about a document of its own: (values, clusters); the mean is .55."""
    values = np.where(random.random(80) < 0.6, random.integers(0, 2, 80), random.beta(2, 2, 80) * 1.25)
    return values.tolist(), list(range(80)), 0.4 * 0.625 + 0.6 * 0.5


def clustered(random, documents=40):
    return *simulate(random, documents), 2 / 3


def ratio(random, documents=40):
    """Abstentions that were right, of all abstentions: how many there are differs by document."""
    about, clusters = simulate(random, documents, a=1.0, b=2.0)
    abstained = np.array(about)
    right = abstained * (random.random(len(about)) < 0.7)
    return list(zip(right.tolist(), abstained.tolist(), strict=True)), clusters, 0.7


def pair(random, documents=40):
    """Two systems on the same questions: the first answers 8 in 100 more of those that the second misses."""
    second, clusters = simulate(random, documents)
    first = [max(x, float(y)) for x, y in zip(second, random.random(len(second)) < 0.24, strict=True)]
    return first, second, clusters, 0.24 / 3


def pair_of_ratios(random, documents=40):
    """Both abstain from the same half of the questions and a few of their own; .7 and .5 of them rightly."""
    shared, clusters = simulate(random, documents, a=2.0, b=2.0)
    sides = []
    for chance in (0.7, 0.5):
        abstained = np.maximum(shared, random.random(len(shared)) < 0.1)
        right = abstained * (random.random(len(shared)) < chance)
        sides.append(list(zip(right.tolist(), abstained.tolist(), strict=True)))
    return *sides, clusters, 0.2


def coverage(make, seed, runs=1000, **how):
    """The share of simulated data sets whose interval holds the truth."""
    random = np.random.default_rng(seed)
    held = []
    for i in range(runs):
        *values, clusters, truth = make(random, **how)
        estimate = (paired_difference if len(values) == 2 else bootstrap_mean)(*values, clusters, 400, i)
        held.append(estimate.low <= truth <= estimate.high)
    return np.mean(held)


@pytest.mark.parametrize("make", [independent, clustered, ratio, pair, pair_of_ratios])
def test_an_interval_of_95_percent_holds_the_truth_in_93_to_97_of_100_data_sets(make):
    assert 0.93 <= coverage(make, seed=6) <= 0.97


def test_with_eight_documents_an_interval_holds_the_truth_nearly_as_often():
    assert 0.91 <= coverage(clustered, seed=6, documents=8) <= 0.97


def test_drawing_questions_instead_of_documents_would_be_too_sure():
    values, clusters = simulate(np.random.default_rng(7), documents=12, a=0.8, b=0.4)
    clustered, naive = bootstrap_mean(values, clusters), bootstrap_mean(values, range(len(values)))
    assert clustered.high - clustered.low > 1.5 * (naive.high - naive.low)


def test_one_document_draws_questions():
    values = [0.0, 1.0] * 50
    alone = bootstrap_mean(values, ["d"] * 100)
    assert alone == bootstrap_mean(values, list(range(100)))
    assert alone.low < 0.5 < alone.high


def test_nothing_to_measure_gives_none():
    assert bootstrap_mean([], []) is None
    assert bootstrap_mean([None, None], [1, 2]) is None
    assert bootstrap_mean([(0, 0), (0, 0)], [1, 2]) is None
    assert paired_difference([None, 1.0], [1.0, None], [1, 2]) is None
    assert paired_difference([(1, 1)], [(0, 0)], [1]) is None


def test_few_questions_tell_nothing():
    assert not paired_difference([1.0], [0.0], ["d"]).beyond_noise
    few, enough = [1.0] * (FEWEST - 1), [1.0] * FEWEST
    assert not bootstrap_mean(few, range(len(few))).beyond_noise
    assert bootstrap_mean(enough, range(len(enough))).beyond_noise


@pytest.mark.parametrize("values", [[float("nan"), 1.0], [float("inf"), 1.0], [1.0]])
def test_wrong_values_are_refused(values):
    with pytest.raises(ValueError):
        bootstrap_mean(values, [1, 2])


def test_questions_to_tell():
    assert questions_to_tell(Estimate(0.02, -0.02, 0.06, 100)) == 400
    assert questions_to_tell(Estimate(-0.02, -0.06, 0.02, 100)) == 400
    assert questions_to_tell(Estimate(0.0, -0.1, 0.1, 100)) is None


def test_student_quantiles_equal_scipy():
    for degrees in (1, 2, 7, 30, 1000):
        for p in (0.9, 0.95, 0.975, 0.995):
            assert student_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-4)


def test_student_tails_equal_scipy():
    for degrees in (1, 2.5, 7, 30, 1000):
        for t in (0.0, 0.3, 1.96, 4.0):
            assert student_tail(t, degrees) == pytest.approx(2 * stats.t.sf(t, degrees), rel=1e-3)


def test_an_unpaired_difference_of_normal_intervals_is_the_textbook_one():
    """MOVER of symmetric intervals: the half-widths add in squares."""
    found = unpaired_difference(Estimate(0.7, 0.64, 0.76, 200), Estimate(0.5, 0.42, 0.58, 90))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.1, 0.3))
    assert found.n == 90


def test_two_thousand_questions_take_a_moment():
    values = np.random.default_rng(8).random(2000).tolist()
    began = time.perf_counter()
    bootstrap_mean(values, list(range(2000)), samples=2000)
    assert time.perf_counter() - began < 1
