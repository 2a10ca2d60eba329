"""Whether synthetic questions tell what people's questions tell: the gap between them, and the ranking.

Synthetic questions are cheap, and often easier: their values may lie too high and still put the better system
first. So both are shown: how far the values lie apart, and whether both sets rank the systems alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fieldstone.evaluate.measures.named import QUANTILES
from fieldstone.evaluate.statistics.bootstrap import Array, Estimate, unpaired_difference
from fieldstone.evaluate.statistics.seeds import draws, mean_over_runs, sums_of
from fieldstone.evaluate.statistics.summary import Measured

YOURS, WRITTEN = "your questions", "synthetic questions"

ENOUGH = 30
"""With fewer human questions under a measure nothing is said of the ranking."""

SURE = 0.95
"""This share of the draws must rank the systems alike, or the other way round, to say so."""

SAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Gap:
    """One system under one measure on both sets; `gap` is synthetic minus human."""

    human: Estimate
    synthetic: Estimate
    gap: Estimate


@dataclass(frozen=True, slots=True)
class Ranking:
    """Whether both sets rank the systems alike under one measure.

    `tau` is Kendall's tau-b between the two rankings; of two systems 1 where both sets put the same one
    first, -1 where they do not. None where a set puts none before another. `probability`: how often documents
    (and seeds) drawn anew, in both sets, rank them rather alike than the other way round (tau above 0).
    `alike`: as `SURE` says; None where it cannot be told.
    """

    tau: float | None
    probability: float
    alike: bool | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Synthetic questions against human ones: measure -> system -> gap, measure -> ranking, warnings.

    `human` and `synthetic` are the names of the two sets. `rankings` lack the measures with fewer than
    `ENOUGH` human questions, and are empty for a single system.
    """

    human: str
    synthetic: str
    gaps: Mapping[str, Mapping[str, Gap]]
    rankings: Mapping[str, Ranking]
    warnings: tuple[str, ...]


def agreement(
    human: Measured, synthetic: Measured, *, names: tuple[str, str] = (YOURS, WRITTEN)
) -> Agreement:
    """Compare what the same systems measured on both sets, `names` being theirs; times are left out."""
    both = [m for m in human.values if m in synthetic.values and m not in ("seconds", *QUANTILES)]
    gaps = {measure: found for measure in both if (found := _gaps(measure, human, synthetic))}
    counts = {measure: max(gap.human.n for gap in found.values()) for measure, found in gaps.items()}
    rankings = {
        measure: ranked
        for measure, count in counts.items()
        if count >= ENOUGH and (ranked := ranking(human, synthetic, measure)) is not None
    }
    several = any(len(found) > 1 for found in gaps.values())
    warnings = tuple(_warnings(counts, rankings)) if several else ()
    return Agreement(*names, gaps, rankings, warnings)


def ranking(human: Measured, synthetic: Measured, measure: str, samples: int = SAMPLES) -> Ranking | None:
    """Whether both rank the systems alike; None with fewer than two of them, or none that ever differ."""
    first, second = human.values[measure], synthetic.values[measure]
    systems = [name for name in first if name in second]
    if len(systems) < 2:
        return None
    drawn, found = [], []
    for seed, (values, clusters) in enumerate(((first, human.clusters), (second, synthetic.clusters))):
        sums, _ = sums_of([values[name] for name in systems], clusters)
        if not sums:
            return None
        drawn.append(_leads(draws(sums, samples, seed)))
        found.append(_leads(np.array([[its[..., 0].sum() / its[..., 1].sum() for its in sums]])))
    least = min(map(len, drawn))
    same = np.sum(drawn[0][:least] * drawn[1][:least], axis=1)
    if not np.any(same):
        return None
    probability = float(np.mean(same > 0) + np.mean(same == 0) / 2)
    tau = _tau(*found)
    alike = None
    if tau is not None and max(probability, 1 - probability) >= SURE and (tau > 0) == (probability > 0.5):
        alike = tau > 0
    return Ranking(tau, probability, alike)


def _gaps(measure: str, human: Measured, synthetic: Measured) -> dict[str, Gap]:
    first, second = human.values[measure], synthetic.values[measure]
    found = {}
    for name in first:
        if name in second:
            a = mean_over_runs(first[name], human.clusters)
            b = mean_over_runs(second[name], synthetic.clusters)
            if a is not None and b is not None:
                found[name] = Gap(a, b, unpaired_difference(b, a))
    return found


def _leads(means: Array) -> Array:
    """Of each pair of systems, who leads: 1, 0 or -1; (samples, pairs)."""
    pairs = np.array(list(combinations(range(means.shape[1]), 2)))
    lead = means[:, pairs[:, 0]] - means[:, pairs[:, 1]]
    signs: Array = np.sign(np.where(np.abs(lead) < 1e-12, 0.0, lead))
    return signs


def _tau(a: Array, b: Array) -> float | None:
    """Of who leads in each pair: tau-b (Kendall, The treatment of ties in ranking problems, 1945)."""
    norm = np.sum(a**2) * np.sum(b**2)
    return float(np.sum(a * b) / np.sqrt(norm)) if norm else None


def _warnings(counts: Mapping[str, int], rankings: Mapping[str, Ranking]) -> list[str]:
    """What the reader must know before trusting the synthetic questions."""
    other_way = [measure for measure, found in rankings.items() if found.alike is False]
    open_ = [measure for measure, found in rankings.items() if found.alike is None]
    few = [measure for measure, count in counts.items() if count < ENOUGH]
    said = []
    if other_way:
        said.append(
            f"the synthetic questions rank the systems the other way round on {_listed(other_way)}: "
            "go by the human ones"
        )
    if open_:
        said.append(
            "whether the synthetic questions rank the systems as the human ones do cannot be told on "
            f"{_listed(open_)}: the systems lie too close together for so few questions"
        )
    if few:
        most = max(counts[measure] for measure in few)
        said.append(
            f"{most} human questions are too few to say whether the synthetic ones rank the systems alike on "
            f"{_listed(few)}; it takes {ENOUGH} at least"
        )
    return said


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
