"""What the dev questions say of a system: the ranks of their passages, the score of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fieldstone.evaluate.statistics.bootstrap import Value
from fieldstone.records import Example, fingerprint

if TYPE_CHECKING:
    from fieldstone.answer import Read, System
    from fieldstone.models import Generator
    from fieldstone.recipes.build import Build
    from fieldstone.search import Index
    from fieldstone.search.confidence import Weights
    from fieldstone.settings import SearchSettings

FEW = 10
"""Right passages, and wrong ones, that it takes at least to fit how far to trust an answer."""

BATCH = 16
"""Questions answered at once."""


def answerable(examples: Sequence[Example]) -> list[Example]:
    """Those about a passage, whether an answer is known or not; nobody searches by choices and claims."""
    return [e for e in examples if e.passage_id is not None and "form" not in e.made_by]


def told(examples: Sequence[Example]) -> list[Example]:
    """Those with an answer, and those that have none for certain."""
    return [e for e in examples if e.answer or e.kind == "unanswerable"]


def sample(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most so many, drawn by their fingerprint, in their order."""
    drawn = {e.id for e in sorted(examples, key=lambda e: fingerprint("sample", seed, e.id))[:most]}
    return [e for e in examples if e.id in drawn]


def reciprocal_ranks(index: Index, dev: Sequence[Example], build: Build) -> list[Value]:
    """Reciprocal rank of each question's passage among ten, before any reranking."""
    plain = build.settings.search.model_copy(update={"rerank": "none"})
    return _reciprocal_ranks(index, plain, dev, build, "judge retriever")


def reranked_reciprocal_ranks(
    index: Index, settings: SearchSettings, dev: Sequence[Example], build: Build
) -> list[Value]:
    """The same after the reranking of these settings."""
    if index.generator is not None:
        index.generator.forget()  # what was read before must not show in the verdict
    return _reciprocal_ranks(index, settings, dev, build, "judge reranker")


def _reciprocal_ranks(
    index: Index, settings: SearchSettings, dev: Sequence[Example], build: Build, told: str
) -> list[Value]:
    from fieldstone.evaluate.measures.ranking import reciprocal_rank
    from fieldstone.search import search

    values: list[Value] = []
    for start in range(0, len(dev), BATCH):
        batch = dev[start : start + BATCH]
        build.progress(told, start, len(dev), "questions")
        found = search(index, [e.question for e in batch], settings, 10)
        for example, hits in zip(batch, found, strict=True):
            ranked = [hit.passage.id for hit in hits]
            values.append(reciprocal_rank(ranked, (frozenset({example.passage_id or ""}),), 10))
    build.progress(told, len(dev), len(dev), "questions")
    return values


def read_and_fit(
    system: System, dev: Sequence[Example], build: Build
) -> tuple[list[Read], dict[str, Weights]]:
    """What the system reads for the dev questions, and how far to trust it.

    The weights are fitted on all of them, and on either half, so that no question is judged by weights that
    were fitted on it.
    """
    found = read_all(system, dev, build)
    halves = {"even": [i for i, e in enumerate(dev) if _half(e) == "even"], "all": list(range(len(dev)))}
    halves["odd"] = [i for i in halves["all"] if i not in set(halves["even"])]
    most = build.settings.answer.over_refusal
    return found, {
        name: _fit(system, [found[i] for i in its], [dev[i] for i in its], most)
        for name, its in halves.items()
    }


def read_all(system: System, dev: Sequence[Example], build: Build) -> list[Read]:
    """What the system reads for the dev questions, before it is decided whether to trust it."""
    from fieldstone.answer import read

    found: list[Read] = []
    system.generator.forget()  # what was read before must not show in the verdict
    for start in range(0, len(dev), BATCH):
        build.progress("judge generator", start, len(dev), "questions")
        found += read(system, [e.question for e in dev[start : start + BATCH]])
    build.progress("judge generator", len(dev), len(dev), "questions")
    return found


def _fit(system: System, found: Sequence[Read], dev: Sequence[Example], most: float) -> Weights:
    """Weights that tell right passages from wrong ones, and the threshold refusing `most` of the right."""
    from fieldstone.answer import trust
    from fieldstone.search.confidence import Weights, confidence, fit_weights

    known = [
        (t, e, r.readings[0].hit.passage.id)
        for r, e in zip(found, dev, strict=True)
        if (t := trust(system, r))
    ]
    right = [e.passage_id == cited for _, e, cited in known]
    if not FEW <= sum(right) <= len(right) - FEW:  # too few of either kind to learn from
        return Weights()
    weights = fit_weights([t[0] for t, _, _ in known], right)
    beliefs = sorted(confidence(t[0], weights) * t[1] for (t, e, _) in known if e.passage_id is not None)
    answerable = sum(e.passage_id is not None for e in dev)
    # those of which nothing was read are refused already
    place = int(most * answerable) - (answerable - len(beliefs))
    below = beliefs[min(max(place, 0), len(beliefs) - 1)]
    return replace(weights, below=below)


def answer_scores(
    system: System, found: Sequence[Read], weights: Mapping[str, Weights], dev: Sequence[Example]
) -> list[Value]:
    """Token F1 of each answer; of a question without one, 1 for a refusal and else 0 (SQuAD 2.0's F1)."""
    from fieldstone.answer import conclude
    from fieldstone.evaluate.measures.answering import token_f1

    values: list[Value] = []
    for its, example in zip(found, dev, strict=True):
        other = "odd" if _half(example) == "even" else "even"
        given = conclude(replace(system, weights=weights[other]), its)
        if example.kind == "answerable":
            values.append(0.0 if given.abstained else token_f1(given.text, [example.answer]))
        else:
            values.append(float(given.abstained))
    return values


def lesson_score(rows: Sequence[Any], max_tokens: int) -> Callable[[Generator], float]:
    """Token F1 between what a generator writes for these rows and what it should."""
    from fieldstone.evaluate.measures.answering import token_f1

    def score(generator: Generator) -> float:
        if not rows:
            return 0.0
        replies = generator.generate(
            [row.prompt for row in rows], max_tokens=max_tokens, stop=() if rows[0].prompt.chat else ("\n",)
        )
        return sum(
            token_f1(reply.text, [row.completion]) for reply, row in zip(replies, rows, strict=True)
        ) / len(rows)

    return score


def _half(example: Example) -> str:
    about = example.passage_id or next(iter(example.negatives), "")
    return "even" if int(fingerprint("half", about), 16) % 2 == 0 else "odd"
