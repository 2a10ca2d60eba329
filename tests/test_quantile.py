"""The bootstrap of a quantile against a plain loop, and against the truth in simulations."""

import numpy as np
import pytest

from fieldstone.evaluate.statistics.bootstrap import tails
from fieldstone.evaluate.statistics.quantile import bootstrap_quantile, quantile_difference


def simulate(random, documents=40):
    """Seconds of questions, slower about some documents than about others."""
    sizes = random.integers(3, 8, documents)
    slow = random.normal(0, 0.3, documents)
    seconds = np.exp(np.repeat(slow, sizes) + random.normal(0, 0.5, sizes.sum()))
    return seconds, np.repeat(np.arange(documents), sizes)


def loop(a, b, clusters, q, samples, seed):
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(clusters == cluster) for cluster in dict.fromkeys(clusters.tolist())]
    found = []
    for _ in range(samples):
        drawn = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        first, second = (np.quantile(x[drawn], q, method="inverted_cdf") for x in (a, b))
        found.append(first - second)
    return np.quantile(found, tails(0.95, len(members)))


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_equals_the_loop(q):
    random = np.random.default_rng(1)
    a, clusters = simulate(random)
    b = a * random.uniform(0.5, 1.4, len(a)).round(1)  # with ties
    estimate = bootstrap_quantile(a.tolist(), clusters.tolist(), q, samples=200, seed=5)
    assert estimate.value == np.quantile(a, q, method="inverted_cdf")
    assert estimate.n == len(a)
    assert (estimate.low, estimate.high) == pytest.approx(loop(a, 0 * a, clusters, q, 200, 5))
    difference = quantile_difference(a.tolist(), b.tolist(), clusters.tolist(), q, samples=200, seed=5)
    assert difference.value == pytest.approx(estimate.value - np.quantile(b, q, method="inverted_cdf"))
    assert (difference.low, difference.high) == pytest.approx(loop(a, b, clusters, q, 200, 5))


def test_equals_numpy_for_any_number_of_questions():
    random = np.random.default_rng(2)
    for n in (1, 2, 3, 19, 20, 21, 40, 99, 100, 101, 200):
        values = random.exponential(size=n)
        for q in (0.5, 0.95):
            estimate = bootstrap_quantile(values.tolist(), list(range(n)), q, samples=1)
            if n < (2 if q == 0.5 else 20):
                assert estimate is None
                continue
            assert estimate.value == np.sort(values)[-(-round(100 * q) * n // 100) - 1]


def test_questions_without_a_value_are_left_out():
    assert bootstrap_quantile([1.0, None, 3.0], ["a", "a", "b"], 0.5).n == 2
    assert bootstrap_quantile([None], ["a"], 0.5) is None
    assert quantile_difference([1.0, None], [None, 1.0], ["a", "b"], 0.5) is None


def test_a_pair_is_a_mean_and_one_document_is_drawn_by_question():
    values = [(2.0 * i, 2.0) for i in range(100)]
    estimate = bootstrap_quantile(values, ["a"] * 100, 0.5)
    assert estimate.value == 49
    assert 30 < estimate.low < 49 < estimate.high < 70


@pytest.mark.slow
@pytest.mark.parametrize(("q", "least", "most"), [(0.5, 0.92, 0.98), (0.95, 0.88, 0.99)])
def test_the_interval_covers_the_truth(q, least, most):
    random = np.random.default_rng(3)
    truth = np.quantile(np.concatenate([simulate(random)[0] for _ in range(2000)]), q)
    covered = 0
    for i in range(500):
        seconds, clusters = simulate(random)
        estimate = bootstrap_quantile(seconds.tolist(), clusters.tolist(), q, samples=400, seed=i)
        covered += estimate.low <= truth <= estimate.high
    assert least < covered / 500 < most
