"""How sure a number is: percentile bootstrap over questions, clustered by the document they are about.

Questions about one document succeed and fail together, so whole documents are drawn, not questions
(Field and Welsh, JRSS B 2007). A value is a number, a pair (numerator, denominator) of a ratio that is
formed after summing, or None where the measure does not apply to the question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Value = float | tuple[float, float] | None
Array = NDArray[np.float64]

BLOCK = 4_000_000
"""Draws held at a time: 32 MB."""

FEWEST = 6
"""Fewer questions tell nothing: five fair coins show the same side in 6 of 100 throws, six in 3."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or ratio, its confidence interval, and the number of questions behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def beyond_noise(self) -> bool:
        """Of a difference: the interval leaves out 0, and there are enough questions to say so.

        The interval alone; where there is a test beside it, `significance.more_than_chance` heeds both.
        """
        return self.n >= FEWEST and (self.low > 0 or self.high < 0)


def bootstrap_mean(
    values: Sequence[Value],
    clusters: Sequence[Hashable],
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate | None:
    """Mean of the values (pairs: sum of numerators over sum of denominators) with its interval.

    None when the measure applies to no question. With few clusters the percentiles are moved outwards
    to those of Student's t (Hesterberg, The American Statistician 2015: expanded percentile interval);
    on simulated questions about 8 documents that takes an interval of 95 % from 89 % coverage to 94 %.
    3 documents stay too few (76 %).
    With a single cluster the questions are drawn instead: the interval then says nothing about other
    documents.
    """
    kept = [i for i, value in enumerate(same_length(values, clusters)) if value is not None]
    parts = fractions([values[i] for i in kept])
    return _estimate(parts, None, [clusters[i] for i in kept], samples, seed, level)


def paired_difference(
    a: Sequence[Value],
    b: Sequence[Value],
    clusters: Sequence[Hashable],
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate | None:
    """Mean of `a` minus mean of `b` on the same questions, both drawn together.

    Questions where either value is None are left out; None when that leaves nothing. The interval is
    made as in `bootstrap_mean`.
    """
    same_length(b, clusters)
    pairs = zip(same_length(a, clusters), b, strict=True)
    kept = [i for i, (x, y) in enumerate(pairs) if x is not None and y is not None]
    first, second = fractions([a[i] for i in kept]), fractions([b[i] for i in kept])
    return _estimate(first, second, [clusters[i] for i in kept], samples, seed, level)


def unpaired_difference(a: Estimate, b: Estimate) -> Estimate:
    """`a` minus `b`, which share no question: the interval is made of the two.

    MOVER (Zou and Donner, Statistics in Medicine 2008). Documents that both ask about make it wider than it
    need be.
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(value, low, high, min(a.n, b.n))


def questions_to_tell(difference: Estimate) -> int | None:
    """About how many questions would bring the near end of the interval to 0; None if there is no difference.

    The width of an interval shrinks with the square root of the number of questions, if the new ones are
    spread over documents as the old ones are.
    """
    if difference.value == 0:
        return None
    reach = difference.value - difference.low if difference.value > 0 else difference.high - difference.value
    return math.ceil(difference.n * (reach / difference.value) ** 2)


def same_length(values: Sequence[Value], clusters: Sequence[Hashable]) -> Sequence[Value]:
    """The values, if there is a cluster to each; else ValueError."""
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values but {len(clusters)} clusters; give one cluster a value")
    return values


def fractions(values: Sequence[Value]) -> Array:
    """Numerators and denominators, (n, 2); a plain number x is x / 1."""
    rows = [value if isinstance(value, tuple) else (value, 1.0) for value in values]
    found = np.array(rows, dtype=np.float64).reshape(len(rows), 2)
    if not np.isfinite(found).all():
        raise ValueError("a value is not finite; give None where a measure does not apply")
    return found


def _estimate(
    first: Array, second: Array | None, clusters: Sequence[Hashable], samples: int, seed: int, level: float
) -> Estimate | None:
    columns = first if second is None else np.hstack([first, second])
    total = columns.sum(axis=0)
    if not np.all(total[1::2] > 0):
        return None
    names: dict[Hashable, int] = {}
    index = np.array([names.setdefault(cluster, len(names)) for cluster in clusters])
    if len(names) > 1:
        sums = np.zeros((len(names), columns.shape[1]))
        np.add.at(sums, index, columns)
    else:
        sums = columns
    drawn = draw(sums, samples, seed)
    drawn = drawn[np.all(drawn[:, 1::2] > 0, axis=1)]  # a draw without any case of a ratio has no value
    low, high = np.quantile(_statistic(drawn), tails(level, len(sums)))
    counted = np.any(columns[:, 1::2] > 0, axis=1)
    return Estimate(float(_statistic(total[None])[0]), float(low), float(high), int(counted.sum()))


def _statistic(sums: Array) -> Array:
    """Ratio of each row's sums, or the difference of its two ratios."""
    ratios = sums[:, ::2] / sums[:, 1::2]
    return ratios[:, 0] - ratios[:, 1] if ratios.shape[1] == 2 else ratios[:, 0]


def draw(sums: Array, samples: int, seed: int) -> Array:
    """Sums over as many clusters as there are, drawn with replacement: (samples, columns)."""
    random = np.random.default_rng(seed)
    size = len(sums)
    step = max(1, BLOCK // size)
    blocks = []
    for start in range(0, samples, step):
        picked = random.integers(0, size, (min(step, samples - start), size))
        blocks.append(np.stack([column[picked].sum(axis=1) for column in sums.T], axis=1))
    return np.concatenate(blocks)


def tails(level: float, size: int) -> tuple[float, float]:
    """The two percentiles, expanded for `size` clusters."""
    if size < 2:
        return 0.0, 1.0
    reach = student_quantile((1 + level) / 2, size - 1) * math.sqrt(size / (size - 1))
    tail = NormalDist().cdf(-reach)
    return tail, 1 - tail


def student_quantile(p: float, degrees: float) -> float:
    """Quantile of Student's t."""
    x, mass = _student(degrees)
    return math.sqrt(degrees) * math.tan(float(np.interp(p, mass, x)))


def student_tail(t: float, degrees: float) -> float:
    """How often Student's t is as far from 0 as `t`, on either side."""
    x, mass = _student(degrees)
    return 2 * float(np.interp(-math.atan(abs(t) / math.sqrt(degrees)), x, mass))


@lru_cache(maxsize=8)
def _student(degrees: float) -> tuple[Array, Array]:
    """Angles x, and the share of t below sqrt(degrees) tan(x): its density is cos(x) ** (degrees - 1)."""
    x = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    density = np.cos(x) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return x, mass / mass[-1]
