"""What the rows of an evaluation come to: means, paired differences and tests of several systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from fieldstone.evaluate.measures.named import QUANTILES
from fieldstone.evaluate.report.findings import LESS_IS_BETTER
from fieldstone.evaluate.statistics.bootstrap import FEWEST, Estimate
from fieldstone.evaluate.statistics.quantile import bootstrap_quantile, quantile_difference
from fieldstone.evaluate.statistics.seeds import Runs, difference_over_runs, mean_over_runs, total
from fieldstone.evaluate.statistics.significance import Test, fewest_clusters, weigh, weigh_quantile

if TYPE_CHECKING:
    from fieldstone.evaluate.run import Judged


@dataclass(frozen=True, slots=True)
class Measured:
    """What several systems' answers to the same questions measured: measure -> system -> values by run.

    `clusters` names each question's document.
    """

    systems: Sequence[str]
    values: Mapping[str, Mapping[str, Runs]]
    clusters: Sequence[str]


def measured(
    rows: Sequence[Mapping[str, Any]],
    judged: Sequence[Judged],
    systems: Sequence[str],
    measures: Sequence[str],
) -> Measured:
    """The values of these rows, one a question and system, or one a question, system and `seed`."""
    runs: dict[str, dict[Any, list[Mapping[str, Any]]]] = {name: {} for name in systems}
    for row in rows:
        if row["system"] in runs:
            runs[row["system"]].setdefault(row.get("seed"), []).append(row["measures"])
    values = {
        measure: {
            name: [[row.get(measure) for row in run] for run in its.values()]
            for name, its in runs.items()
            if any(measure in row for run in its.values() for row in run)
        }
        for measure in measures
    }
    return Measured(systems, values, clustered(_documents(judged), [item.question.id for item in judged]))


def estimates(found: Measured) -> dict[str, dict[str, Estimate]]:
    """System -> measure -> mean over questions and runs (or the quantile that the measure is)."""
    kept: dict[str, dict[str, Estimate]] = {name: {} for name in found.systems}
    for measure, systems in found.values.items():
        for name, runs in systems.items():
            if measure in QUANTILES:
                estimate = bootstrap_quantile(_over_runs(runs), found.clusters, QUANTILES[measure])
            else:
                estimate = mean_over_runs(runs, found.clusters)
            if estimate is not None:
                kept[name][measure] = estimate
    return kept


def differences(found: Measured) -> dict[str, dict[str, Estimate]]:
    """Pair, such as "fused - dense" -> measure -> the first minus the second, on the same questions."""
    kept: dict[str, dict[str, Estimate]] = {_named(*pair): {} for pair in combinations(found.systems, 2)}
    for measure, pair, a, b in _pairs(found):
        if measure in QUANTILES:
            q = QUANTILES[measure]
            estimate = quantile_difference(_over_runs(a), _over_runs(b), found.clusters, q)
        else:
            estimate = difference_over_runs(a, b, found.clusters)
        if estimate is not None:
            kept[pair][measure] = estimate
    return kept


def tests(found: Measured) -> dict[str, dict[str, Test]]:
    """Pair -> measure -> test, corrected for all pairs under the measure.

    Of a quantile, as of its interval, each question's value is the mean over its runs.
    """
    by_measure: dict[str, dict[str, tuple[Runs, Runs]]] = {}
    for measure, pair, a, b in _pairs(found):
        by_measure.setdefault(measure, {})[pair] = (a, b)
    kept: dict[str, dict[str, Test]] = {_named(*pair): {} for pair in combinations(found.systems, 2)}
    for measure, pairs in by_measure.items():
        less = measure in LESS_IS_BETTER
        if measure in QUANTILES:
            means = {pair: (_over_runs(a), _over_runs(b)) for pair, (a, b) in pairs.items()}
            weighed = weigh_quantile(means, found.clusters, QUANTILES[measure], less_is_better=less)
        else:
            weighed = weigh(pairs, found.clusters, less_is_better=less)
        for pair, test in weighed.items():
            kept[pair][measure] = test
    return kept


def notes(judged: Sequence[Judged], systems: int) -> list[str]:
    """What the reader must know where the questions are about few documents."""
    documents = len(set(_documents(judged)))
    pairs = systems * (systems - 1) // 2
    if documents < FEWEST:
        few = "one document" if documents == 1 else f"{documents} documents"
        return [f"questions about only {few}: the intervals say nothing about others"]
    if pairs and documents < (least := fewest_clusters(pairs)):
        return [
            f"{documents} documents are too few to tell {pairs} pairs of systems apart: compare fewer "
            f"systems, or ask about {least} documents"
        ]
    return []


def _pairs(found: Measured) -> Iterator[tuple[str, str, Runs, Runs]]:
    """Measure, the name of a pair, and the values of its two: the later system minus the earlier.

    But for `seconds`: they are a batch's, alike for its questions, and would seem surer than they are.
    """
    for measure, systems in found.values.items():
        if measure == "seconds":
            continue
        for a, b in combinations(systems, 2):
            yield measure, _named(a, b), systems[b], systems[a]


def _named(a: str, b: str) -> str:
    return f"{b} - {a}"


def _over_runs(runs: Runs) -> list[tuple[float, float] | None]:
    return [total(values) for values in zip(*runs, strict=True)]


def clustered(documents: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Each question's document, or the question itself where there are fewer than six documents."""
    return list(questions if len(set(documents)) < FEWEST else documents)


def _documents(judged: Sequence[Judged]) -> list[str]:
    """The document a question is about; a question about none stands for itself."""
    return [item.question.source or item.question.id for item in judged]
