"""Whether a difference between two systems may be luck: exchange test, Holm's correction, power.

The exchange test is Fisher's randomisation test: if two systems are equals, it does not matter which of them
gave which answers, so exchange them within whole documents, in every way there is or in `SWAPS` ways drawn by
chance, and count how often they then differ as much. It is valid for any number and any sizes of documents.
Of n documents, 2 ** (1 - n) is the least p on both sides: with five or fewer nothing can be told.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldstone.evaluate.statistics.bootstrap import (
    BLOCK,
    Array,
    Estimate,
    Value,
    fractions,
    student_quantile,
    student_tail,
)
from fieldstone.evaluate.statistics.quantile import quantile_place, told_by
from fieldstone.evaluate.statistics.seeds import Error, Runs, standard_error

LUCK = 0.05
"""How often chance alone may do as well as what is called more than chance."""

POWER = 0.8
"""How often a difference that counts as detectable would be told from chance."""

SWAPS = 4096
"""So many exchanges are drawn where there are more; up to 12 clusters, all of them are tried."""


@dataclass(frozen=True, slots=True)
class Test:
    """What is known of a difference between two systems under a measure, beside its interval.

    `p`: how often two equals would differ as much. `holm`: the same, corrected for all the pairs of systems
    that were compared under the measure. `wins`, `ties`, `losses`: the questions on which the first of the
    two did better, alike, worse. `detectable`: the smallest true difference that would be told from chance in
    four of five such evaluations; None where the two never differ. `questions`: about how many it takes to
    tell a difference like the one found; None where there is none, or where more alone would not help.
    """

    p: float
    holm: float
    wins: int
    ties: int
    losses: int
    detectable: float | None
    questions: int | None = None


def more_than_chance(difference: Estimate, test: Test | None = None) -> bool:
    """The one rule: its interval leaves out 0, and so does the test, corrected for all pairs compared.

    Without a test, as in reports of before there were tests, the interval alone.
    """
    return difference.beyond_noise and (test is None or test.holm <= LUCK)


def weigh(
    pairs: Mapping[str, tuple[Runs, Runs]],
    clusters: Sequence[Hashable],
    *,
    less_is_better: bool = False,
    seed: int = 0,
) -> dict[str, Test]:
    """The tests of all pairs of systems compared under one measure; a pair without common questions has none.

    Each pair has the values of both by run. Two systems that ran once are exchanged. Of several runs, the
    seeds count as well: too few of them to exchange (three against three can be dealt in 20 ways), so p is
    that of Student's t, the difference over its standard error.
    """
    found = {name: standard_error(systems, clusters) for name, systems in pairs.items()}
    errors = {name: error for name, error in found.items() if error is not None}
    p = {name: _p(*pairs[name], clusters, error, seed) for name, error in errors.items()}
    corrected = holm(p)
    return {
        name: Test(
            p[name],
            corrected[name],
            *wins_ties_losses(*pairs[name], less_is_better=less_is_better),
            detectable(error, len(p)) if error.standard else None,
            questions_to_tell(error, len(p)),
        )
        for name, error in errors.items()
    }


def weigh_quantile(
    pairs: Mapping[str, tuple[Sequence[Value], Sequence[Value]]],
    clusters: Sequence[Hashable],
    q: float,
    *,
    less_is_better: bool = False,
    seed: int = 0,
) -> dict[str, Test]:
    """The tests of all pairs compared by their quantile `q`; nothing is said of what would be detectable."""
    luck = {name: quantile_luck(a, b, clusters, q, seed=seed) for name, (a, b) in pairs.items()}
    p = {name: found for name, found in luck.items() if found is not None}
    corrected = holm(p)
    return {
        name: Test(
            p[name],
            corrected[name],
            *wins_ties_losses(*([its] for its in pairs[name]), less_is_better=less_is_better),
            None,
        )
        for name in p
    }


def chance_of_luck(
    a: Sequence[Value],
    b: Sequence[Value],
    clusters: Sequence[Hashable],
    *,
    both_sides: bool = False,
    seed: int = 0,
) -> float:
    """How often `a` would lead `b` by as much if the two were equals, exchanged cluster by cluster.

    `both_sides`: how often either would lead the other by as much. 1 when no question has both values. Where
    exchanges are drawn, the truth counts as one of them, so that the answer is never too small (Phipson and
    Smyth, Statistical Applications in Genetics and Molecular Biology 2010).
    """
    kept = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x is not None and y is not None]
    if not kept:
        return 1.0
    names: dict[Hashable, int] = {}
    index = [names.setdefault(clusters[i], len(names)) for i in kept]
    sums = np.zeros((len(names), 4))
    np.add.at(sums, index, np.hstack([fractions([its[i] for i in kept]) for its in (a, b)]))
    lead = np.concatenate([_leads(sums, swaps) for swaps in _swaps(len(names), seed)])
    if both_sides:
        lead = np.abs(lead)
    # the first is the truth; an exchange that leaves a ratio without any case counts as luck
    return float(np.mean(~(lead < lead[0] - 1e-12 * max(1.0, abs(lead[0])))))


def quantile_luck(
    a: Sequence[Value], b: Sequence[Value], clusters: Sequence[Hashable], q: float, *, seed: int = 0
) -> float | None:
    """How often the quantiles `q` of two equals would lie as far apart, exchanged cluster by cluster.

    None where too few questions have both values to tell it.
    """
    kept = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x is not None and y is not None]
    if not told_by(len(kept), q):
        return None
    names: dict[Hashable, int] = {}
    index = [names.setdefault(clusters[i], len(names)) for i in kept]
    sums = np.hstack([fractions([its[i] for i in kept]) for its in (a, b)])
    first, second = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    place = quantile_place(q, len(kept))
    leads = []
    for swaps in _swaps(len(names), seed, len(kept)):
        swapped = swaps[:, index].astype(bool)
        ours, theirs = np.where(swapped, second, first), np.where(swapped, first, second)
        leads.append(np.partition(ours, place)[:, place] - np.partition(theirs, place)[:, place])
    lead = np.abs(np.concatenate(leads))
    return float(np.mean(lead >= lead[0] - 1e-12))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p values corrected for how many there are, so that at most 1 in 20 families holds a false alarm.

    Step-down Bonferroni: the smallest times their number, the next times one less, and so on, each at least
    the one before (Holm, Scandinavian Journal of Statistics 1979). It holds however they hang together.
    """
    corrected: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        least = min(1.0, max(least, (len(p) - place) * p[name]))
        corrected[name] = least
    return corrected


def fewest_clusters(pairs: int = 1) -> int:
    """With fewer documents even the clearest of so many differences could not be told from chance."""
    return 1 + math.ceil(math.log2(pairs / LUCK))


def detectable(error: Error, pairs: int = 1) -> float:
    """The smallest true difference that would be told from chance with a `POWER` of four in five.

    (t(1 - LUCK / 2 / pairs) + t(POWER)) times the standard error, with Student's t of the error's degrees of
    freedom (Bloom, Evaluation Review 1995: minimum detectable effect). Of several pairs it is what Holm's
    first and strictest step would tell.
    """
    return _reach(error, pairs, POWER) * error.standard


def questions_to_tell(error: Error, pairs: int = 1) -> int | None:
    """About how many questions it takes to tell a difference as large as the one found; None if none would.

    More questions, spread over documents as these are, shrink what documents add to the error, not what seeds
    add.
    """
    reach = _reach(error, pairs)
    room = error.value**2 - reach**2 * error.seeds
    return math.ceil(error.n * reach**2 * error.documents / room) if error.value and room > 0 else None


def wins_ties_losses(a: Runs, b: Runs, *, less_is_better: bool = False) -> tuple[int, int, int]:
    """The questions on which `a` did better, alike and worse, all its runs together.

    A question that a ratio or measure does not apply to in both is not counted.
    """
    first, second = (
        np.sum([fractions([(0.0, 0.0) if v is None else v for v in run]) for run in runs], axis=0)
        for runs in (a, b)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        lead = (
            first[:, 0] / first[:, 1] - second[:, 0] / second[:, 1]
        )  # not a number where one does not apply
    up, down = int(np.sum(lead > 1e-12)), int(np.sum(lead < -1e-12))
    ties = int(np.sum(np.isfinite(lead))) - up - down
    return (down, ties, up) if less_is_better else (up, ties, down)


def _p(a: Runs, b: Runs, clusters: Sequence[Hashable], error: Error, seed: int) -> float:
    if len(a) == len(b) == 1:
        return chance_of_luck(a[0], b[0], clusters, both_sides=True, seed=seed)
    if error.standard == 0:
        return 1.0 if error.value == 0 else 0.0
    return student_tail(error.value / error.standard, error.degrees)


def _reach(error: Error, pairs: int, power: float = 0.5) -> float:
    """So many standard errors a true difference must have to be told with this power."""
    return student_quantile(1 - LUCK / 2 / pairs, error.degrees) + student_quantile(power, error.degrees)


def _leads(sums: Array, swaps: NDArray[np.int8]) -> Array:
    """By how much the first leads after each exchange; `sums` holds numerator and denominator of both."""
    swapped = swaps @ (sums[:, 2:] - sums[:, :2])
    ours, theirs = sums[:, :2].sum(axis=0) + swapped, sums[:, 2:].sum(axis=0) - swapped
    with np.errstate(divide="ignore", invalid="ignore"):
        lead: Array = ours[:, 0] / ours[:, 1] - theirs[:, 0] / theirs[:, 1]
    return lead


def _swaps(size: int, seed: int, width: int = 0) -> Iterator[NDArray[np.int8]]:
    """Who is exchanged, (ways, size), nobody first: all ways there are, or `SWAPS` drawn.

    In blocks of so many ways that an array of `width` beside each has room.
    """
    if 2**size <= SWAPS:
        yield ((np.arange(2**size)[:, None] >> np.arange(size)) & 1).astype(np.int8)
        return
    random = np.random.default_rng(seed)
    step = max(1, BLOCK // max(size, width))
    for start in range(0, SWAPS, step):
        drawn = random.integers(0, 2, (min(step, SWAPS - start), size), dtype=np.int8)
        drawn[0] &= start > 0
        yield drawn
