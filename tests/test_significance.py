"""Exchange test, Holm and power: against scipy, loops and hand, and against the truth in simulations."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from fieldstone.evaluate.statistics import significance
from fieldstone.evaluate.statistics.bootstrap import Estimate, paired_difference
from fieldstone.evaluate.statistics.seeds import standard_error
from fieldstone.evaluate.statistics.significance import (
    LUCK,
    SWAPS,
    chance_of_luck,
    detectable,
    fewest_clusters,
    holm,
    more_than_chance,
    questions_to_tell,
    weigh,
    wins_ties_losses,
)


def pair(random, documents, each, shift=0.0, spread=0.0):
    """Right or wrong of two systems on the same questions: (a, b, clusters).

    Documents and questions differ in how hard they are; `spread` lets each system get on differently with
    each document; `shift` makes the first better.
    """
    document = np.repeat(np.arange(documents), each)
    easy = random.normal(0.5, 1, documents)[document] + random.normal(0, 1, len(document))
    sides = [
        easy + random.normal(0, spread, documents)[document] + random.normal(0, 0.7, len(document)) + better
        for better in (shift, 0.0)
    ]
    return *((side > 0).astype(float).tolist() for side in sides), document.tolist()


# -- the exchange test


def loop(a, b, clusters):
    """The leads after all exchanges, one by one, the truth first."""
    names = sorted(set(clusters))
    leads = []
    for ways in product((False, True), repeat=len(names)):
        swapped = dict(zip(names, ways, strict=True))
        pairs = [(y, x) if swapped[c] else (x, y) for x, y, c in zip(a, b, clusters, strict=True)]
        leads.append(np.mean([x for x, _ in pairs]) - np.mean([y for _, y in pairs]))
    return np.array(leads)


def test_p_equals_the_loop():
    a, b, clusters = pair(np.random.default_rng(1), 7, 6, shift=0.6)
    leads = loop(a, b, clusters)
    assert chance_of_luck(a, b, clusters) == np.mean(leads >= leads[0] - 1e-9)
    assert chance_of_luck(a, b, clusters, both_sides=True) == np.mean(np.abs(leads) >= abs(leads[0]) - 1e-9)


@pytest.mark.parametrize(("both_sides", "alternative"), [(False, "greater"), (True, "two-sided")])
def test_p_equals_scipy_where_every_question_has_its_document(both_sides, alternative):
    random = np.random.default_rng(2)
    for _ in range(50):
        a, b = random.random(10) + 0.2, random.random(10)
        theirs = stats.permutation_test(
            (a - b,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
        )
        ours = chance_of_luck(a.tolist(), b.tolist(), range(10), both_sides=both_sides)
        assert ours == pytest.approx(theirs.pvalue)


def test_drawn_exchanges_come_near_to_scipy():
    random = np.random.default_rng(3)
    a, b = random.random(60) + 0.08, random.random(60)
    theirs = stats.permutation_test(
        (a - b,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert chance_of_luck(a.tolist(), b.tolist(), range(60), both_sides=True) == pytest.approx(
        theirs.pvalue, abs=0.02
    )


def test_drawn_exchanges_are_never_surer_than_their_number():
    a, b = [1.0] * 40, [0.0] * 40
    assert chance_of_luck(a, b, range(40)) == 1 / SWAPS


def test_ways_in_blocks_are_the_same_ways(monkeypatch):
    a, b, clusters = pair(np.random.default_rng(4), 20, 4, shift=0.3)
    whole = chance_of_luck(a, b, clusters)
    monkeypatch.setattr(significance, "BLOCK", 20 * 1000)
    assert chance_of_luck(a, b, clusters) == pytest.approx(whole, abs=0.02)


def test_luck_of_ratios_is_formed_after_summing():
    a, b = [(1, 1), (1, 1), (0, 0)], [(0, 1), (0, 0), (0, 1)]
    assert chance_of_luck(a, b, [1, 1, 2]) == 1 / 4, "2/2 - 0/2 is more than 2/3 - 0/1 and the other two"
    assert chance_of_luck([(1, 1), (0, 0)], [(0, 0), (0, 1)], [1, 2]) == 3 / 4, "0/0 counts as luck"
    assert chance_of_luck([1.0, None], [None, 1.0], [1, 2]) == 1


@pytest.mark.parametrize(("documents", "each", "spread"), [(60, 1, 0.0), (12, 8, 0.7), (30, 4, 0.7)])
def test_of_100_pairs_of_equals_five_at_most_look_different(documents, each, spread):
    random = np.random.default_rng(5)
    sets = (pair(random, documents, each, spread=spread) for _ in range(1000))
    alarms = sum(chance_of_luck(*its, both_sides=True, seed=i) <= LUCK for i, its in enumerate(sets))
    assert alarms <= stats.binom.ppf(0.999, 1000, LUCK)
    assert alarms > 10, "a test that never alarms is none"


def test_questions_exchanged_one_by_one_would_raise_false_alarms():
    """So the documents are needed: equals that get on with other documents better."""
    random = np.random.default_rng(6)
    sets = [pair(random, 12, 20, spread=0.7) for _ in range(200)]
    assert np.mean([chance_of_luck(a, b, range(len(a)), both_sides=True) <= LUCK for a, b, _ in sets]) > 0.1


def test_a_real_difference_is_found_and_oftener_with_more_questions():
    random = np.random.default_rng(7)
    found = [
        np.mean(
            [
                chance_of_luck(*pair(random, documents, 4, shift=0.5), both_sides=True) <= LUCK
                for _ in range(300)
            ]
        )
        for documents in (15, 60)
    ]
    assert found[0] < found[1]
    assert found[1] > 0.9


def test_so_many_documents_it_takes():
    for pairs in (1, 3, 6, 10):
        least = fewest_clusters(pairs)
        assert 2 ** (1 - least) * pairs <= LUCK < 2 ** (2 - least) * pairs
    assert [fewest_clusters(pairs) for pairs in (1, 6)] == [6, 8]


# -- Holm


def by_hand(values):
    """As Holm wrote it: reject the smallest at level / k, the next at level / (k - 1), and so on; stop."""

    def rejected(level):
        order = sorted(range(len(values)), key=values.__getitem__)
        found = set()
        for step, i in enumerate(order):
            if values[i] > level / (len(values) - step):
                break
            found.add(i)
        return found

    levels = sorted({min(1.0, p * k) for p in values for k in range(1, len(values) + 1)} | {1.0})
    return [
        next((level for level in levels if i in rejected(level + 1e-12)), 1.0) for i in range(len(values))
    ]


def test_luck_of_a_quantile_equals_the_loop():
    random = np.random.default_rng(7)
    for q in (0.5, 0.9):
        clusters = np.repeat(np.arange(7), random.integers(2, 6, 7))
        a, b = random.exponential(size=(2, len(clusters))).round(1)

        def lead(swap, a=a, b=b, clusters=clusters, q=q):
            turned = np.array(swap)[clusters] == 1
            ours, theirs = np.where(turned, b, a), np.where(turned, a, b)
            first, second = (np.quantile(x, q, method="inverted_cdf") for x in (ours, theirs))
            return abs(first - second)

        truth = lead([0] * 7)
        p = np.mean([lead(swap) >= truth - 1e-12 for swap in product((0, 1), repeat=7)])
        assert significance.quantile_luck(a.tolist(), b.tolist(), clusters.tolist(), q) == pytest.approx(p)


def test_luck_of_a_quantile_comes_near_to_scipy():
    random = np.random.default_rng(8)
    a, b = random.exponential(size=60), random.exponential(1.4, size=60)
    found = significance.quantile_luck(a.tolist(), b.tolist(), list(range(60)), 0.95)

    def apart(x, y, axis=-1):
        first, second = (np.quantile(z, 0.95, axis=axis, method="inverted_cdf") for z in (x, y))
        return np.abs(first - second)

    scipy = stats.permutation_test(
        (a, b), apart, permutation_type="samples", alternative="greater", n_resamples=4000, rng=1
    )
    assert found == pytest.approx(scipy.pvalue, abs=0.03)


def test_a_quantile_of_equals_looks_different_in_five_of_100_at_most():
    random = np.random.default_rng(9)
    alarms = 0
    for _ in range(300):
        slow = np.repeat(random.normal(0, 0.3, 12), 4)
        a, b = np.exp(slow + random.normal(0, 0.5, (2, 48)))
        p = significance.quantile_luck(a.tolist(), b.tolist(), np.repeat(np.arange(12), 4).tolist(), 0.9)
        alarms += p <= 0.05
    assert alarms <= 0.05 * 300 + 2 * np.sqrt(300 * 0.05 * 0.95)


def test_too_few_questions_tell_no_quantile():
    few = [1.0] * 19
    assert significance.quantile_luck(few, few, list(range(19)), 0.95) is None
    assert significance.weigh_quantile({"b - a": (few, few)}, list(range(19)), 0.95) == {}


def test_holm_equals_the_procedure():
    random = np.random.default_rng(8)
    for _ in range(1000):
        values = (random.random(random.integers(1, 7)) ** 3).round(3).tolist()
        corrected = holm({str(i): p for i, p in enumerate(values)})
        assert [corrected[str(i)] for i in range(len(values))] == pytest.approx(by_hand(values))


def test_holm_of_a_known_case():
    """Holm 1979 has none; this one is in many textbooks: .01, .04, .03, .005 give .03, .06, .06, .02."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({}) == {}
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_of_100_families_of_equals_five_at_most_hold_a_false_alarm():
    """Four equal systems, six pairs."""
    random = np.random.default_rng(9)
    alarms = {"p": 0, "holm": 0}
    for _ in range(500):
        documents = np.repeat(np.arange(10), 5)
        easy = random.normal(0.5, 1.2, 50)
        systems = [(easy + random.normal(0, 0.8, 50) > 0).astype(float).tolist() for _ in range(4)]
        pairs = {f"{i}{j}": ([systems[i]], [systems[j]]) for i, j in combinations(range(4), 2)}
        tests = weigh(pairs, documents.tolist())
        for name in alarms:
            alarms[name] += any(getattr(test, name) <= LUCK for test in tests.values())
    assert alarms["holm"] <= stats.binom.ppf(0.999, 500, LUCK)
    assert alarms["p"] > 2 * alarms["holm"]


# -- power


def lengths(random, documents, shift=0.0):
    """Differences of two systems, clustered: (a, b, clusters)."""
    document = np.repeat(np.arange(documents), 5)
    a = random.normal(0, 0.3, documents)[document] + random.normal(shift, 0.5, len(document))
    return a.tolist(), [0.0] * len(document), document.tolist()


@pytest.mark.parametrize("pairs", [1, 6])
def test_the_detectable_difference_is_told_in_four_of_five_data_sets(pairs):
    random = np.random.default_rng(10)
    errors = [
        standard_error([[a], [b]], clusters) for a, b, clusters in (lengths(random, 30) for _ in range(200))
    ]
    least = float(np.mean([detectable(error, pairs) for error in errors]))
    exact = np.sqrt((0.3**2 + 0.5**2 / 5) / 30)
    degrees = stats.t(29)
    assert least == pytest.approx((degrees.ppf(1 - 0.025 / pairs) + degrees.ppf(0.8)) * exact, rel=0.03)
    told = [chance_of_luck(*lengths(random, 30, least), both_sides=True) <= LUCK / pairs for _ in range(600)]
    assert np.mean(told) == pytest.approx(0.8, abs=0.05)


def test_so_many_questions_would_have_told():
    """Of a difference found with 100 questions: with as many as it says, half of the data sets tell it."""
    random = np.random.default_rng(11)
    a, b, clusters = lengths(random, 20, 0.12)
    error = standard_error([[a], [b]], clusters)
    needed = questions_to_tell(error)
    half = stats.t(19).ppf(0.975) * np.sqrt(error.documents * error.n / needed)
    assert half == pytest.approx(abs(error.value), rel=0.02)


def test_identical_systems_have_nothing_to_detect():
    values = [0.0, 1.0] * 10
    test = weigh({"b - a": ([values], [values])}, list(range(20)))["b - a"]
    assert (test.p, test.holm, test.wins, test.ties, test.losses) == (1.0, 1.0, 0, 20, 0)
    assert test.detectable is None
    assert test.questions is None


# -- all of it


def test_wins_ties_and_losses():
    a, b = [1.0, 1.0, 0.0, None, 0.5], [0.0, 1.0, 1.0, 1.0, 0.5]
    assert wins_ties_losses([a], [b]) == (1, 2, 1)
    assert wins_ties_losses([a], [b], less_is_better=True) == (1, 2, 1)
    assert wins_ties_losses([a[:2]], [b[:2]], less_is_better=True) == (0, 1, 1)
    assert wins_ties_losses([[(1, 1), (0, 0)]], [[(0, 1), (1, 1)]]) == (1, 0, 0), "a ratio of nothing is none"
    assert wins_ties_losses([[1.0], [0.0], [0.0]], [[0.0]]) == (1, 0, 0), "all runs together"


def test_a_pair_alone_is_not_corrected_and_a_pair_without_questions_has_no_test():
    a, b, clusters = pair(np.random.default_rng(12), 12, 5, shift=0.5)
    alone = weigh({"x": ([a], [b])}, clusters)["x"]
    assert alone.holm == alone.p == chance_of_luck(a, b, clusters, both_sides=True)
    nothing = [None] * len(a)
    both = weigh({"x": ([a], [b]), "y": ([a], [nothing])}, clusters)
    assert both == {"x": alone}


def test_one_question_tells_nothing():
    test = weigh({"x": ([[1.0]], [[0.0]])}, ["d"])["x"]
    assert (test.p, test.wins, test.detectable) == (1.0, 1, None)


def test_more_than_chance_needs_interval_and_test():
    clear, unclear = Estimate(0.2, 0.1, 0.3, 40), Estimate(0.2, -0.1, 0.5, 40)
    sure, unsure = (significance.Test(0.01, p, 9, 0, 1, 0.1) for p in (0.04, 0.06))
    assert more_than_chance(clear)
    assert more_than_chance(clear, sure)
    assert not more_than_chance(clear, unsure)
    assert not more_than_chance(unclear, sure)
    assert not more_than_chance(Estimate(0.2, 0.1, 0.3, 5), sure)


def test_of_100_pairs_of_equals_five_at_most_are_called_more_than_chance():
    random = np.random.default_rng(13)
    told = 0
    for i in range(500):
        a, b, clusters = pair(random, 12, 8, spread=0.7)
        test = weigh({"x": ([a], [b])}, clusters, seed=i)["x"]
        told += more_than_chance(paired_difference(a, b, clusters, 400, i), test)
    assert told <= stats.binom.ppf(0.999, 500, LUCK)
