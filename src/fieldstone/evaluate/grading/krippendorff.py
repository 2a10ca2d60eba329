"""How far people agree who grade the same things: Krippendorff's alpha.

1 is agreement in all, 0 is what chance would give, below 0 is less than that. Any number of graders, any
grades missing (K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["nominal", "ordinal"]
Array = NDArray[np.float64]

RELIABLE, TENTATIVE = 0.8, 0.667
"""The usual bounds (Krippendorff, Content Analysis, 2nd edition 2004, page 241)."""


@dataclass(frozen=True, slots=True)
class Alpha:
    """Alpha with its interval; None where the grades leave it undefined.

    `units` are the things that at least two people graded, `grades` all the grades that those got.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int
    grades: int

    @property
    def in_words(self) -> str:
        """What to make of it."""
        if not self.units:
            return "nothing was graded by two people"
        if self.value is None:
            return "everybody gave everything the same grade: that tells nothing of agreement"
        if self.value >= RELIABLE:
            sure = self.low is not None and self.low >= TENTATIVE
            return "reliable" if sure else "reliable, but on too few to be sure"
        if self.value >= TENTATIVE:
            return "good enough for tentative conclusions"
        if self.value > 0.2:
            return "too low to build on: agree on what the grades mean, and grade again"
        return "hardly better than chance: these grades say nothing"


def alpha(
    units: Sequence[Sequence[int]],
    metric: Metric,
    clusters: Sequence[Hashable] | None = None,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Alpha:
    """Alpha of the grades that each unit got, whoever gave them; a missing grade is left out.

    `nominal`: two grades are the same or not. `ordinal`: they are as far apart as the grades between them
    are frequent; larger numbers are higher grades. The interval is a percentile bootstrap over whole
    `clusters` of units (None, or where there is but one: each unit by itself).
    """
    several = [i for i, grades in enumerate(units) if len(grades) > 1]
    if not several:
        return Alpha(None, None, None, 0, 0)
    if clusters is not None and len({clusters[i] for i in several}) == 1:
        clusters = None
    values = sorted({grade for i in several for grade in units[i]})
    place = {value: k for k, value in enumerate(values)}
    names: dict[Hashable, int] = {}
    pairs: list[Array] = []
    for i in several:
        counts = np.bincount([place[grade] for grade in units[i]], minlength=len(values)).astype(np.float64)
        its = (np.outer(counts, counts) - np.diag(counts)) / (len(units[i]) - 1)
        cluster = names.setdefault(i if clusters is None else clusters[i], len(names))
        if cluster == len(pairs):
            pairs.append(its)
        else:
            pairs[cluster] += its
    stacked = np.stack(pairs)
    value = float(_alpha(stacked.sum(axis=0), metric))
    size = len(stacked)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), samples)
    spread = _alpha(np.tensordot(drawn, stacked, axes=1), metric)
    spread = spread[~np.isnan(spread)]  # a draw in which all grades are one has no alpha
    grades = sum(len(units[i]) for i in several)
    if np.isnan(value):
        return Alpha(None, None, None, len(several), grades)
    if not len(spread):
        return Alpha(value, None, None, len(several), grades)
    low, high = np.quantile(spread, ((1 - level) / 2, (1 + level) / 2))
    return Alpha(value, float(low), float(high), len(several), grades)


def _alpha(coincidences: Array, metric: Metric) -> Array:
    """Alpha of matrices (..., k, k) that count how often two grades met; NaN where there is but one grade."""
    totals = coincidences.sum(axis=-1)
    if metric == "nominal":
        apart: Array = 1.0 - np.eye(totals.shape[-1])
    else:  # the grades between two, half of each end: the distance of their mean ranks
        ranks = np.cumsum(totals, axis=-1) - totals / 2
        apart = (ranks[..., :, None] - ranks[..., None, :]) ** 2
    observed = (coincidences * apart).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * apart).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = 1.0 - (totals.sum(axis=-1) - 1.0) * observed / expected
    return np.where(expected > 0, found, np.nan)
