"""Krippendorff's alpha against the published example and against its definition, pair by pair."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from fieldstone.evaluate.grading.krippendorff import Alpha, alpha

PUBLISHED = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Krippendorff 2011, section C: four observers, twelve units, missing values."""


def units_of(table):
    rows = [line.split() for line in table.strip().splitlines()]
    return [[int(value) for value in column if value != "."] for column in zip(*rows, strict=True)]


def by_definition(units, metric):
    """One minus observed by expected disagreement, both over pairs of single grades."""
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    counts = Counter(values)

    def apart(c, k):
        if metric == "nominal":
            return float(c != k)
        low, high = min(c, k), max(c, k)
        between = sum(number for value, number in counts.items() if low <= value <= high)
        return (between - (counts[c] + counts[k]) / 2) ** 2 if c != k else 0.0

    n = len(values)
    if n < 2:
        return None
    observed = sum(apart(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)) / n
    expected = sum(apart(a, b) for a, b in permutations(values, 2)) / n / (n - 1)
    return 1 - observed / expected if expected else None


def test_the_published_example():
    units = units_of(PUBLISHED)
    nominal, ordinal = alpha(units, "nominal"), alpha(units, "ordinal")
    assert nominal.value == pytest.approx(0.743, abs=5e-4)
    assert ordinal.value == pytest.approx(0.815, abs=5e-4)
    assert (ordinal.units, ordinal.grades) == (11, 40), "the unit with one value pairs with nothing"
    assert ordinal.low < ordinal.value < ordinal.high


@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
def test_a_thousand_random_cases_equal_the_definition(metric):
    random = np.random.default_rng(7)
    undefined = 0
    for _ in range(1000):
        graders, levels = random.integers(1, 5), random.integers(1, 5)
        truth = random.integers(0, levels, random.integers(1, 9))
        units = [
            [int(grade if random.random() < 0.6 else random.integers(0, levels)) - 1
             for _ in range(graders) if random.random() < 0.8]
            for grade in truth
        ]  # fmt: skip
        found, wanted = alpha(units, metric, samples=2).value, by_definition(units, metric)
        undefined += wanted is None
        assert found == (wanted if wanted is None else pytest.approx(wanted, abs=1e-12))
    assert 50 < undefined < 600


def test_edges():
    assert alpha([], "nominal") == Alpha(None, None, None, 0, 0)
    assert alpha([[1], [2], []], "ordinal") == Alpha(None, None, None, 0, 0)
    same = alpha([[2, 2], [2, 2]], "ordinal")
    assert (same.value, same.units, same.grades) == (None, 2, 4)
    assert "tells nothing" in same.in_words
    whole = alpha([[0, 0], [2, 2], [1, 1, 1]], "ordinal")
    assert (whole.value, whole.high) == (1.0, 1.0)
    assert alpha([[0, 2], [2, 0]], "nominal").value < 0, "less than chance"
    near, far = [[0, 0], [1, 1], [2, 2], [0, 1]], [[0, 0], [1, 1], [2, 2], [0, 2]]
    assert alpha(near, "nominal").value == alpha(far, "nominal").value
    assert alpha(near, "ordinal").value > alpha(far, "ordinal").value
    assert alpha([[-1, -1], [0, 1], [1, 1]], "ordinal") == alpha([[0, 0], [1, 2], [2, 2]], "ordinal")


def test_in_words():
    def words(value, low):
        return Alpha(value, low, 1.0, 50, 100).in_words

    assert words(0.9, 0.85) == "reliable"
    assert "too few to be sure" in words(0.85, 0.5)
    assert "tentative" in words(0.7, 0.6)
    assert "too low" in words(0.5, 0.4)
    assert "chance" in words(0.1, -0.1)


def test_clusters_are_drawn_whole():
    """Ten copies of each unit say no more than one: drawn by cluster the interval does not shrink."""
    units = [[0, 0], [1, 1], [2, 2], [0, 1], [2, 1], [0, 0], [2, 2], [1, 0]]
    once = alpha(units, "ordinal")
    copies = alpha(units * 10, "ordinal", list(range(8)) * 10)
    loose = alpha(units * 10, "ordinal")
    width = once.high - once.low
    assert copies.high - copies.low == pytest.approx(width, rel=0.15)
    assert loose.high - loose.low < 0.5 * width
    assert alpha(units, "ordinal", ["one"] * 8) == once, "one cluster says nothing: its units are drawn"


def test_the_interval_covers():
    """200 studies of 60 units, three graders who see the truth in 7 of 10 cases: 95 % should hold it."""
    random = np.random.default_rng(3)

    def study(size):
        truth = random.integers(0, 3, (size, 1))
        return np.where(random.random((size, 3)) < 0.7, truth, random.integers(0, 3, (size, 3)))

    true = alpha(study(20_000).tolist(), "ordinal", samples=2).value
    found = [alpha(study(60).tolist(), "ordinal", samples=300, seed=i) for i in range(200)]
    covered = np.mean([its.low <= true <= its.high for its in found])
    assert 0.91 <= covered <= 0.99
