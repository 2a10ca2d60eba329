"""A cross-encoder at work: tuned and judged as a reranker, or teacher of the retriever's margins (GPL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone.errors import QuestionsError
from fieldstone.in_use import reranking_model, with_reranker
from fieldstone.recipes.candidates import kept_verdict, put_to_gate, settle
from fieldstone.recipes.dev import answerable, reranked_reciprocal_ranks, sample
from fieldstone.records import Example, fingerprint

if TYPE_CHECKING:
    from fieldstone.evaluate.statistics.bootstrap import Value
    from fieldstone.models import Generator
    from fieldstone.recipes.build import Build
    from fieldstone.settings import Settings
    from fieldstone.tune.retriever import Contrast

DEV_QUESTIONS = 400
"""Dev questions that decide about a reranker, at most: a generator may have to score eight passages each."""

BASE = "embedded:minilm"
"""The body of a reranker where the settings name none."""


def tune_reranker(build: Build) -> dict[str, Any]:
    """A candidate for the reranker, judged on the dev questions against the search in use, as it reranks."""
    settings, train = build.settings, answerable(build.examples("train"))
    base = settings.models.reranker or BASE
    id_ = fingerprint(  # whatever its negatives depend on: one that is in use is not to be trained over
        "reranker", base, settings.reranker, settings.search, settings.models.encoder, settings.seed,
        build.passages_mark, *(e.id for e in train),
    )  # fmt: skip
    dev = sample(answerable(build.examples("dev")), DEV_QUESTIONS, settings.seed)
    parts = [Path(build.in_use(part)).name for part in ("retriever", "generator")]
    judged = fingerprint(settings.search, parts, *(e.id for e in dev))
    if kept := kept_verdict(build, "reranker", id_, judged):
        return kept

    if base.startswith(("http://", "https://")):
        return {"skipped": f"{base} is a model server, whose weights cannot be tuned from here"}
    if len(train) < 2:
        return {"skipped": f"{len(train)} training questions are too few"}

    from fieldstone.tune.reranker import tune_reranker as tune  # here: what is up to date loads no torch

    texts, models = build.library.passage_texts(), settings.models
    data = _hard(build, [e for e in train if e.passage_id in texts], texts)
    folder = build.workspace.path / "models" / "reranker" / id_
    try:
        tuned = tune(
            base, data, folder, settings.reranker, seed=settings.seed, device=models.device,
            threads=models.threads or None, progress=build.progress,
        )  # fmt: skip
    except QuestionsError as error:  # a handful of documents teach nothing, and can be asked all the same
        return {"skipped": str(error)}

    now = build.in_use("reranker", but=id_)
    generator = None
    if (old := build.searching(but=id_)).search.rerank == "likelihood":
        used = build.in_use("generator")
        generator = build.generator if used == models.generator else build.load_generator(used)
    new_values = _values(build, with_reranker(settings, str(folder)), dev)
    old_values = _values(build, old, dev, generator)
    measure = f"MRR@10 ({settings.search.mode} search, reranked)"
    verdict = put_to_gate(build, "reranker", id_, now, measure, new_values, old_values, dev)
    facts = {"questions": len(data), "steps": tuned.steps, "tuning seconds": round(tuned.seconds, 1)}
    return settle(build, verdict, id_, {"judged": judged, **facts})


def _values(
    build: Build, settings: Settings, dev: Sequence[Example], generator: Generator | None = None
) -> list[Value]:
    index = build.open_index(generator=generator, reranker=reranking_model(settings))
    return reranked_reciprocal_ranks(index, settings.search, dev, build)


def _hard(build: Build, train: Sequence[Example], texts: Mapping[str, str]) -> list[Contrast]:
    """Each question with negatives from what the search gives the reranker, with the untuned encoder."""
    from fieldstone.tune.retriever.contrast import mined

    how, search = build.settings.reranker, build.settings.search
    return mined(
        build.open_index(build.base_encoder()),
        train,
        [search],
        how.candidates,
        how.negatives,
        texts,
        build.settings.seed,
        progress=build.progress,
    )


def teacher_of(build: Build) -> str:
    """What scores passages for margins: the tuned reranker in use, the one named, else the generator."""
    models = build.settings.models
    return reranking_model(build.searching()) or models.reranker or models.generator


def margins(build: Build, train: Sequence[Example], texts: Mapping[str, str]) -> list[Contrast]:
    """GPL: negatives from the dense and from the lexical search, and a teacher's score of each passage.

    The untuned encoder searches; the teacher's scores are kept in `cache/teacher/`.
    """
    from dataclasses import replace

    from fieldstone.tune.retriever.contrast import mined
    from fieldstone.tune.retriever.teacher import likelihoods, pseudo_labels

    settings = build.settings
    how, teacher = settings.retriever, teacher_of(build)
    searches = [settings.search.model_copy(update={"mode": mode}) for mode in ("dense", "lexical")]
    data = mined(
        build.open_index(build.base_encoder()), train, searches, how.candidates, how.negatives, texts,
        settings.seed, judged=True, progress=build.progress,
    )  # fmt: skip
    asked = [(item.question, (item.positive, *item.negatives)) for item in data]
    kept = build.workspace.cache / "teacher" / f"{fingerprint('margin', teacher)}.jsonl"
    if teacher == settings.models.generator:
        scores = likelihoods(build.generator, asked, kept, build.progress)
    else:
        scores = pseudo_labels(build.load_reranker(teacher), asked, kept, build.progress)
    return [replace(item, scores=its) for item, its in zip(data, scores, strict=True)]
