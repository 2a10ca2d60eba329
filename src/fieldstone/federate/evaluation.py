"""Measured at many sites, reckoned at one: sites give sums, the coordinator forms means and intervals.

A site sums the values of its dev questions document by document and shuffles the documents, so that the
interval is that of a bootstrap over documents, and neither a question nor a document can be told.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from fieldstone.evaluate.statistics.bootstrap import (
    Estimate,
    Value,
    bootstrap_mean,
    paired_difference,
)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The global part, the untuned one, and the difference, over the questions of all sites."""

    tuned: Estimate
    untuned: Estimate
    difference: Estimate


def sums_of(tuned: Sequence[Value], untuned: Sequence[Value], clusters: Sequence[Hashable]) -> list[float]:
    """Three numbers for each cluster, in random order: questions, sum of the tuned, of the untuned."""
    sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for ours, theirs, cluster in zip(tuned, untuned, clusters, strict=True):
        if isinstance(ours, float) and isinstance(theirs, float):
            its = sums[cluster]
            its[0] += 1
            its[1] += ours
            its[2] += theirs
    triples = list(sums.values())
    random.SystemRandom().shuffle(triples)
    return [number for triple in triples for number in triple]


def evaluated(sites: Iterable[Sequence[float]], seed: int = 0) -> Evaluated | None:
    """Means and intervals of what the sites summed; None where they have no questions."""
    triples = [
        tuple(its[place : place + 3]) for its in sites for place in range(0, len(its) - len(its) % 3, 3)
    ]
    triples = [its for its in triples if its[0] > 0]
    tuned: list[Value] = [(ours, count) for count, ours, _ in triples]
    untuned: list[Value] = [(theirs, count) for count, _, theirs in triples]
    clusters = range(len(triples))
    questions = round(sum(count for count, _, _ in triples))
    estimates = (
        bootstrap_mean(tuned, clusters, seed=seed),
        bootstrap_mean(untuned, clusters, seed=seed),
        paired_difference(tuned, untuned, clusters, seed=seed),
    )
    found = [replace(its, n=questions) for its in estimates if its is not None]
    return Evaluated(*found) if len(found) == 3 else None
