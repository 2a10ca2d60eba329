"""Seeds as a level of their own: against a plain loop, and against the truth in simulations."""

import numpy as np
import pytest
from scipy import stats

from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, draw, fractions, paired_difference
from fieldstone.evaluate.statistics.seeds import (
    difference_over_runs,
    draws,
    mean_over_runs,
    standard_error,
    sums_of,
    total,
)
from fieldstone.evaluate.statistics.significance import LUCK, more_than_chance, weigh


def recipe(random, hard, seeds, wide, better=0.0):
    """The values of each run of a recipe, where a seed shifts all questions by about `wide`."""
    shifts = random.normal(better, wide, seeds) if wide else np.full(seeds, better)
    return [(hard + shift + random.normal(0, 0.15, len(hard))).tolist() for shift in shifts]


def questions(random, documents=25, each=4):
    """How hard each question is, and its document."""
    clusters = np.repeat(np.arange(documents), each)
    return random.normal(0.6, 0.15, documents)[clusters] + random.normal(
        0, 0.2, len(clusters)
    ), clusters.tolist()


def test_one_run_is_the_bootstrap_over_documents():
    random = np.random.default_rng(1)
    hard, clusters = questions(random)
    a, b = (recipe(random, hard, 1, 0.0) for _ in range(2))
    assert mean_over_runs(a, clusters) == bootstrap_mean(a[0], clusters)
    assert difference_over_runs(a, b, clusters) == paired_difference(a[0], b[0], clusters)


def test_draws_equal_a_loop():
    """Documents once for all, seeds for each system, question by question."""
    random = np.random.default_rng(2)
    hard, clusters = questions(random, 6)
    a, b = recipe(random, hard, 3, 0.1), recipe(random, hard, 2, 0.1)
    a[1][3] = None
    a[0][5] = a[1][5] = a[2][5] = None  # no value in any run of one: left out of both
    sums, counted = sums_of([a, b], clusters)
    assert counted == len(hard) - 1
    found = draws(sums, 50, seed=7)
    documents = np.random.default_rng(7).integers(0, 6, (50, 6))
    seeds = np.random.default_rng([7, 1])
    picked = [seeds.integers(0, len(runs), (50, len(runs))) for runs in (a, b)]
    for i in range(50):
        for system, runs in enumerate((a, b)):
            values = [
                runs[run][q]
                for run in picked[system][i]
                for document in documents[i]
                for q in range(len(hard))
                if clusters[q] == document and q != 5 and runs[run][q] is not None
            ]
            assert found[i, system] == pytest.approx(np.mean(values))


def test_the_value_is_the_mean_over_all_runs_and_ratios_are_formed_after_summing():
    a = [[1.0, None, 0.0], [0.0, None, 0.0]]
    b = [[(1, 2), (0, 0), (1, 1)], [(0, 0), (0, 0), (0, 1)]]
    assert mean_over_runs(a, [1, 2, 3]).value == 1 / 4
    assert mean_over_runs(b, [1, 2, 3]).value == 2 / 4
    difference = difference_over_runs(b, a, [1, 2, 3])
    assert (difference.value, difference.n) == (1 / 4, 2)
    assert mean_over_runs([[None], [None]], ["d"]) is None
    assert difference_over_runs([[None, 1.0]] * 2, [[1.0, None]], [1, 2]) is None
    assert mean_over_runs([[(0, 0)], [(0, 0)]], ["d"]) is None
    assert total([(1, 2), None, 1.0]) == (2.0, 3.0)
    assert total([None, (0, 0)]) is None


def test_values_and_clusters_must_go_together():
    with pytest.raises(ValueError, match="2 values but 3 clusters"):
        mean_over_runs([[1.0, 0.0], [1.0, 0.0]], [1, 2, 3])


def test_the_standard_error_of_one_run_is_that_of_the_draws():
    random = np.random.default_rng(3)
    document = np.repeat(np.arange(40), random.integers(1, 9, 40))
    abstained = (random.random(len(document)) < random.beta(2, 2, 40)[document]).astype(float)
    right = abstained * (random.random(len(document)) < 0.6)
    values = list(zip(right.tolist(), abstained.tolist(), strict=True))
    error = standard_error([[values]], document.tolist())
    sums = np.zeros((40, 2))
    np.add.at(sums, document, fractions(values))
    drawn = draw(sums, 20_000, 0)
    spread = np.std(drawn[:, 0] / drawn[:, 1])
    assert error.standard == pytest.approx(spread * np.sqrt(40 / 39), rel=0.05)
    assert error.degrees == 39


def test_the_standard_error_over_runs_is_that_of_the_draws():
    random = np.random.default_rng(4)
    hard, clusters = questions(random, 40)
    a, b = recipe(random, hard, 5, 0.05), recipe(random, hard, 5, 0.03)
    sums, _ = sums_of([a, b], clusters)
    drawn = draws(sums, 20_000, 0)
    error = standard_error([a, b], clusters)
    biased = np.sqrt(error.documents * 39 / 40 + error.seeds * 4 / 5)
    assert biased == pytest.approx(np.std(drawn[:, 0] - drawn[:, 1]), rel=0.05)


@pytest.mark.parametrize("wide", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("kind", ["mean", "difference", "difference to one run"])
def test_with_three_seeds_the_interval_holds_the_truth_of_the_recipe(kind, wide):
    """Seeds that change nothing, as much as documents do, and far more; the truth is over all seeds.

    Where only three seeds count, Satterthwaite's degrees of freedom are a little too many: 91.2 of 100.
    """
    random, held = np.random.default_rng(5), []
    for i in range(500):
        hard, clusters = questions(random)
        a = recipe(random, hard, 3, wide, better=0.1)
        if kind == "mean":
            estimate, truth = mean_over_runs(a, clusters, 400, i), 0.7
        else:
            b = recipe(random, hard, 3 if kind == "difference" else 1, wide if kind == "difference" else 0.0)
            estimate, truth = difference_over_runs(a, b, clusters, 400, i), 0.1
        held.append(estimate.low <= truth <= estimate.high)
    assert 0.90 <= np.mean(held) <= 0.995


def test_an_interval_over_questions_alone_would_be_too_sure_of_a_recipe():
    random, held = np.random.default_rng(6), []
    for i in range(200):
        hard, clusters = questions(random)
        a, b = recipe(random, hard, 3, 0.05), recipe(random, hard, 3, 0.05)
        means = [np.mean(runs, axis=0).tolist() for runs in (a, b)]
        estimate = paired_difference(*means, clusters, 400, i)
        held.append(estimate.low <= 0 <= estimate.high)
    assert np.mean(held) < 0.8


@pytest.mark.parametrize("wide", [0.0, 0.05])
def test_of_100_pairs_of_equal_recipes_five_at_most_look_different(wide):
    random, alarms = np.random.default_rng(7), 0
    for i in range(500):
        hard, clusters = questions(random)
        a, b = recipe(random, hard, 3, wide), recipe(random, hard, 3, wide)
        test = weigh({"a - b": (a, b)}, clusters)["a - b"]
        alarms += more_than_chance(difference_over_runs(a, b, clusters, 400, i), test)
    assert alarms <= stats.binom.ppf(0.999, 500, LUCK)


def test_a_better_recipe_is_found_with_three_seeds_each():
    random = np.random.default_rng(8)
    hard, clusters = questions(random)
    a, b = recipe(random, hard, 3, 0.02, better=0.15), recipe(random, hard, 3, 0.02)
    test = weigh({"a - b": (a, b)}, clusters)["a - b"]
    assert test.p < 0.01
    assert test.wins > test.losses
    assert more_than_chance(difference_over_runs(a, b, clusters), test)


def test_p_of_seeds_alone_is_that_of_welch():
    """Every question alike: only seeds differ, and the test is Welch's."""
    a, b = [[x] * 40 for x in (0.61, 0.64, 0.7)], [[x] * 40 for x in (0.6, 0.59, 0.62)]
    ours = weigh({"a - b": (a, b)}, list(range(40)))["a - b"].p
    theirs = stats.ttest_ind([0.61, 0.64, 0.7], [0.6, 0.59, 0.62], equal_var=False).pvalue
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_more_questions_do_not_help_where_the_seeds_lie_apart():
    random = np.random.default_rng(9)
    hard, clusters = questions(random)
    a, b = ([(hard + shift).tolist() for shift in shifts] for shifts in ((-0.2, 0.1, 0.2), (-0.1, 0.0, 0.1)))
    assert weigh({"a - b": (a, b)}, clusters)["a - b"].questions is None


def test_runs_that_agree_in_everything_have_no_noise():
    same = [[1.0] * 8] * 3
    estimate = difference_over_runs(same, [[0.0] * 8] * 3, list(range(8)))
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)
    assert weigh({"x": (same, [[0.0] * 8] * 3)}, list(range(8)))["x"].p == 0.0
    assert weigh({"x": (same, same)}, list(range(8)))["x"].p == 1.0
