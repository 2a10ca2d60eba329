"""The second stages of the generator: on pairs of its own replies, and by reward while it searches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone.recipes.candidates import kept_verdict
from fieldstone.recipes.dev import sample, told
from fieldstone.recipes.tuning import generator_rows, judge_generator
from fieldstone.records import fingerprint

if TYPE_CHECKING:
    from fieldstone.recipes.build import Build

STARTED_FROM = "started from"
"""Under which the verdict keeps what a second stage of tuning went on from."""


def prefer(build: Build) -> dict[str, Any]:
    """A candidate for the generator, tuned by preference on top of the one in use, judged by its answers."""
    settings, how = build.settings, build.settings.preference
    train, dev = told(build.examples("train")), told(build.examples("dev"))
    start = started_from(build)
    id_ = fingerprint(
        "prefer", start, how, settings.generator, settings.answer, settings.seed, *(e.id for e in train)
    )
    judged = fingerprint(settings.search, Path(build.in_use("retriever")).name, *(e.id for e in dev))
    if kept := kept_verdict(build, "generator", id_, judged):
        return kept
    if settings.models.generator.startswith(("http://", "https://")):
        return {"skipped": f"{start} is a model server, whose weights cannot be tuned from here"}

    from fieldstone.evaluate.measures.answering import token_f1
    from fieldstone.tune.generator.dpo import tune_by_preference
    from fieldstone.tune.generator.preference import kinds, preference_pairs, sample_key, write_pairs
    from fieldstone.tune.generator.with_trl import need_trl

    need_trl()  # before anything is drawn
    lessons = settings.generator.model_copy(update={"refusals": how.refusals})
    rows = generator_rows(build, train, settings.seed, lessons)
    rows = sorted(rows, key=lambda row: fingerprint("prefer", settings.seed, row))[: how.prompts]
    build.__dict__.pop("generator", None)  # the untuned one
    generator, limit = build.load_generator(folder_of(build, start)), settings.answer.max_tokens
    mark = sample_key(generator.fingerprint, rows, how, settings.seed, limit)
    pairs = preference_pairs(
        generator, rows, how, lambda said, expected: token_f1(said, [expected]), max_tokens=limit,
        passages=settings.answer.passages, kept=build.workspace.cache / "replies" / f"{mark}.jsonl",
        seed=settings.seed, progress=build.progress,
    )  # fmt: skip
    del generator
    write_pairs(build.workspace.path / "examples" / "preferences.jsonl", pairs)
    if len(pairs) < 2:
        return {"skipped": f"{len(pairs)} pairs are too few: of {len(rows)} prompts, most are answered right"}
    models = settings.models
    tuned = tune_by_preference(
        folder_of(build, start), pairs, build.workspace.path / "models" / "generator" / id_, how,
        settings.generator, seed=settings.seed, device=models.device, threads=models.threads or None,
        progress=build.progress,
    )  # fmt: skip
    facts = {
        STARTED_FROM: start, "prompts": len(rows), "pairs": len(pairs), "errors": dict(kinds(pairs)),
        "steps": tuned.steps, "tuning seconds": round(tuned.seconds, 1),
    }  # fmt: skip
    return judge_generator(build, id_, dev, {"judged": judged, **facts})


def learn_to_search(build: Build) -> dict[str, Any]:
    """A candidate for the generator that was rewarded for its answers while it searched by itself."""
    settings, how = build.settings, build.settings.search_rl
    if settings.answer.reading != "search":
        return {"skipped": f"answer.reading = {settings.answer.reading}, and what is learnt is to search"}
    train, dev = told(build.examples("train")), told(build.examples("dev"))
    asked = sample(train, how.questions, settings.seed)
    start = started_from(build)
    id_ = fingerprint(
        "search-rl", start, how, settings.generator, settings.search, settings.seed, *(e.id for e in asked)
    )
    judged = fingerprint(
        settings.search, settings.answer, Path(build.in_use("retriever")).name, *(e.id for e in dev)
    )
    if kept := kept_verdict(build, "generator", id_, judged):
        return kept
    if settings.models.generator.startswith(("http://", "https://")):
        return {"skipped": f"{start} is a model server, whose weights cannot be tuned from here"}
    if len(asked) < 2:
        return {"skipped": f"{len(asked)} training examples are too few"}

    from fieldstone.evaluate.measures.answering import exact_match, token_f1
    from fieldstone.search import search
    from fieldstone.tune.generator.search_rl import Task, tune_to_search

    index, plain = build.open_index(), settings.search.model_copy(update={"rerank": "none"})
    texts = build.library.passage_texts()
    measure = exact_match if how.reward == "exact" else token_f1

    def find(queries: Sequence[str]) -> list[list[str]]:
        found = search(index, queries, plain, how.passages)
        return [[texts[hit.passage.id] for hit in hits] for hits in found]

    models = settings.models
    tuned = tune_to_search(
        folder_of(build, start), [Task(e.question, e.answer) for e in asked], find,
        lambda said, expected: measure(said, [expected] if expected else []),
        build.workspace.path / "models" / "generator" / id_, how, settings.generator,
        inputs=fingerprint(build.passages_mark, build.encoder.fingerprint, plain), seed=settings.seed,
        device=models.device, threads=models.threads or None, progress=build.progress,
    )  # fmt: skip
    rewards = [entry["reward"] for entry in tuned.log if "reward" in entry]
    facts = {
        STARTED_FROM: start, "questions": len(asked), "steps": tuned.steps,
        "reward of the first and the last step": [round(rewards[0], 3), round(rewards[-1], 3)],
        "tuning seconds": round(tuned.seconds, 1),
    }  # fmt: skip
    return judge_generator(build, id_, dev, {"judged": judged, **facts})


def started_from(build: Build) -> str:
    """The generator that a second stage of tuning goes on from: the one in use, by its id or its name.

    If that came out of a second stage itself, what it went on from: so a build that is repeated makes the
    same candidate and does not go on from its own result.
    """
    now = build.in_use("generator")
    folder = Path(now)
    if folder.parent != build.workspace.path.resolve() / "models" / "generator":
        return now
    try:
        said = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {}
    return str(said.get(STARTED_FROM, folder.name))


def folder_of(build: Build, start: str) -> str:
    """What `started_from` gave as a name that a generator is loaded by."""
    folder = build.workspace.path / "models" / "generator" / start
    return str(folder) if start and folder.is_dir() else start
