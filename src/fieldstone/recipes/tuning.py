"""The steps that tune a workspace and prove it: synthesize, tune each part, gate it, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone import gate
from fieldstone.errors import QuestionsError
from fieldstone.evaluate.compare import Value
from fieldstone.examples import SPLITS
from fieldstone.in_use import Choice, Part, keep_trust, newest, roll_back, take_into_use
from fieldstone.records import Example, fingerprint

if TYPE_CHECKING:
    from fieldstone.answer import Read, System
    from fieldstone.models import Encoder, Generator
    from fieldstone.progress import Progress
    from fieldstone.recipes import Build
    from fieldstone.search import Index
    from fieldstone.search.confidence import Weights
    from fieldstone.tune.generator import Row
    from fieldstone.tune.retriever import Contrast, Ranking

DEV_QUESTIONS = 160
"""Dev questions that decide about a generator, at most: each is answered by two systems."""

CHECKED = 32
"""Dev examples that choose between the checkpoints of a generator."""

FEW = 10
"""Right passages, and wrong ones, that it takes at least to fit how far to trust an answer."""

BATCH = 16
"""Questions answered at once."""

VERSIONS = ("fieldstone", "torch", "transformers", "sentence-transformers", "peft")


def synthesize(build: Build) -> dict[str, Any]:
    """Questions from the passages, and the user's own among them."""
    from fieldstone.synthesize import synthesize as write

    folder, own = build.workspace.path / "examples", _own_examples(build)
    inputs = fingerprint(
        build.library.meta("library"), build.passages_mark, build.settings.synthesize, build.settings.seed,
        build.settings.models.generator, build.settings.search.mode, *map(asdict, own),
    )  # fmt: skip
    done = build.done("synthesize", inputs)
    if done and all((folder / f"{split}.jsonl").exists() for split in SPLITS):
        return done
    index, generator = build.open_index(), build.generator
    made = write(folder, index, generator, build.settings, own, build.progress)
    return {"inputs": inputs, "model": generator.name, **asdict(made)}


def tune_retriever(build: Build) -> dict[str, Any]:
    """A candidate for the retriever, judged on the dev questions by the rank of their passage."""
    settings, train = build.settings, _answerable(build.examples("train"))
    base = settings.models.encoder
    id_ = fingerprint(
        "retriever", base, settings.retriever, settings.search, settings.models.generator, settings.seed,
        *(e.id for e in train),
    )  # fmt: skip
    if len(train) < 2:
        return {"skipped": f"{len(train)} training questions are too few"}
    dev = _answerable(build.examples("dev"))
    judged = fingerprint(settings.search, *(e.id for e in dev))
    if kept := _kept_verdict(build, "retriever", id_, judged):
        return kept

    from fieldstone.search.embed import embed_beside  # here: a build that is up to date loads no torch
    from fieldstone.tune.retriever import tune_retriever as tune

    data = retriever_data(build)
    models = settings.models
    folder = build.workspace.path / "models" / "retriever" / id_
    try:
        tuned = tune(
            base, data, folder, settings.retriever, seed=settings.seed, device=models.device,
            threads=models.threads or None, progress=build.progress,
        )  # fmt: skip
    except QuestionsError as error:  # a handful of documents teach nothing, and can be asked all the same
        return {"skipped": str(error)}
    candidate = build.load_encoder(str(folder))
    embed_beside(build.library, candidate, build.progress)

    now = build.in_use("retriever", but=id_)
    new_values = _ranks(build.open_index(encoder=candidate), dev, build)
    old_values = _ranks(build.open_index(encoder=build.load_encoder(now)), dev, build)
    measure = f"MRR@10 ({settings.search.mode} search)"
    verdict = _judge(build, "retriever", id_, now, measure, new_values, old_values, dev)
    facts = {"questions": len(data), "steps": tuned.steps, "tuning seconds": round(tuned.seconds, 1)}
    return _settle(build, verdict, id_, {"judged": judged, **facts}, candidate)


def retriever_data(build: Build) -> Sequence[Contrast] | Sequence[Ranking]:
    """The training questions as the loss of the settings wants them."""
    from fieldstone.tune.retriever import Contrast
    from fieldstone.tune.teacher import rank

    settings, train = build.settings, _answerable(build.examples("train"))
    how = settings.retriever
    if how.loss == "distill":
        questions = [e.question for e in train]
        kept = build.workspace.cache / "teacher" / f"{fingerprint(how.candidates, *questions)}.jsonl"
        index = build.open_index(likelihood=True)
        return rank(index, questions, settings.search, how.candidates, kept, build.progress)
    texts = build.library.passage_texts()
    return [
        Contrast(
            e.question,
            texts[e.passage_id],
            tuple(texts[n] for n in e.negatives[: how.negatives]),
            e.passage_id,
        )
        for e in train
        if e.passage_id in texts and texts.keys() >= set(e.negatives)
    ]


def tune_generator(build: Build) -> dict[str, Any]:
    """A candidate for the generator, judged on the dev questions by the score of its answers."""
    settings = build.settings
    train, dev = _told(build.examples("train")), _told(build.examples("dev"))
    base = settings.models.generator
    id_ = fingerprint(
        "generator", base, settings.generator, settings.answer, settings.seed, *(e.id for e in train)
    )
    judged = fingerprint(settings.search, Path(build.in_use("retriever")).name, *(e.id for e in dev))
    if kept := _kept_verdict(build, "generator", id_, judged):
        return kept
    if base.startswith(("http://", "https://")):
        return {"skipped": f"{base} is a model server, whose weights cannot be tuned from here"}

    from fieldstone.tune.generator import tune_generator as tune

    rows = generator_rows(build, train, settings.seed)
    if len(rows) < 2:
        return {"skipped": f"{len(rows)} training examples are too few"}
    checked = generator_rows(build, _sample(dev, CHECKED, settings.seed), settings.seed)
    build.__dict__.pop("generator", None)  # one copy of the weights less while tuning
    models = settings.models
    folder = build.workspace.path / "models" / "generator" / id_
    tuned = tune(
        base, rows, folder, settings.generator, dev_score=_lesson_score(checked, settings.answer.max_tokens),
        seed=settings.seed, device=models.device, threads=models.threads or None, progress=build.progress,
    )  # fmt: skip

    asked = _sample(dev, DEV_QUESTIONS, settings.seed)
    now = build.in_use("generator", but=id_)
    candidate = build.load_generator(str(folder))
    system = build.system(candidate)
    read, weights = _read_and_fit(system, asked, build)
    new_values = _answer_scores(system, read, weights, asked)
    old = build.system(build.load_generator(now), trusted=True)
    old_read = _read(old, asked, build)
    old_values = _answer_scores(old, old_read, dict.fromkeys(weights, old.weights), asked)
    verdict = _judge(build, "generator", id_, now, "answer score", new_values, old_values, asked)
    facts = {
        "rows": tuned.rows, "steps": tuned.steps, "tuning seconds": round(tuned.seconds, 1),
        "dev scores": [list(pair) for pair in tuned.scores],
    }  # fmt: skip
    if verdict.accepted:
        keep_trust(build.workspace, build.in_use("retriever"), str(folder), weights["all"])
    return _settle(build, verdict, id_, {"judged": judged, **facts})


def generator_rows(build: Build, examples: Sequence[Example], seed: int) -> list[Row]:
    """These examples as prompts and replies, in the way of reading of the settings."""
    from fieldstone.tune.reading import lessons

    settings = build.settings
    return lessons(
        examples,
        build.library.passage_texts(),
        build.reading,
        settings.generator,
        settings.answer.passages,
        seed,
    )


def fit_on_dev(build: Build, system: System) -> Weights:
    """How far to trust this system, as found on the dev questions."""
    asked = _sample(_told(build.examples("dev")), DEV_QUESTIONS, build.settings.seed)
    return _read_and_fit(system, asked, build)[1]["all"]


def report(build: Build) -> dict[str, Any]:
    """Before and after on the test questions and on the user's own, read once for this report."""
    from fieldstone.answer import System
    from fieldstone.evaluate.report import Evaluation, QuestionSet, write_report
    from fieldstone.evaluate.run import judge, judge_examples, measure
    from fieldstone.search.embed import embed_beside

    settings, test = build.settings, [e for e in _told(build.examples("test")) if e.origin == "synthetic"]
    test = _sample(test, DEV_QUESTIONS, settings.seed)
    verdicts = tuple(_verdicts(build))
    models = [build.in_use("retriever"), build.in_use("generator")]
    inputs = fingerprint(
        build.passages_mark, models, settings.search, settings.answer, *(e.id for e in test), *build.questions
    )
    done = build.done("report", inputs)
    if done and Path(str(done["report"])).exists():
        return done
    base = settings.models.encoder
    base_encoder = build.load_encoder(base)
    embed_beside(build.library, base_encoder, build.progress)
    before = System(
        build.open_index(encoder=base_encoder, likelihood=True, generator=build.generator),
        build.generator,
        settings,
    )
    tuned = models != [base, settings.models.generator]
    after = build.system(build.load_generator(models[1]), trusted=True) if tuned else before
    systems = {"before": before, "after": after}
    sets: dict[str, QuestionSet] = {}
    notes: list[str] = []
    if build.questions:
        judged, missing = judge(build.library, build.questions)
        notes += missing
        sets["human questions"] = measure(systems, judged, None, _named(build, "your questions"))
    if test:
        judged = judge_examples(build.library, test)
        sets["synthetic questions"] = measure(systems, judged, None, _named(build, "test questions"))
    if not sets:
        return {"skipped": "there are no test questions"}
    build.library.use_encoder(build.encoder.fingerprint)  # the base's vectors have served
    paths = write_report(
        build.workspace.reports,
        Evaluation(
            date=datetime.now(UTC),
            settings=settings.model_dump(mode="json"),
            notes=tuple(notes),
            sets=sets,
            verdicts=verdicts,
            versions={name: version(name) for name in VERSIONS},
        ),
    )
    return {"inputs": inputs, "report": str(paths.json), "page": str(paths.html)}


# -- judging


def _judge(
    build: Build,
    part: Part,
    id_: str,
    incumbent: str,
    measure: str,
    ours: Sequence[Value],
    theirs: Sequence[Value],
    dev: Sequence[Example],
) -> gate.Verdict:
    from fieldstone.synthesize.divide import ENOUGH_DOCUMENTS, sections

    passages = {p.id: p for p in build.library.passages()}
    unit = sections(passages.values())
    about = [e.passage_id or next(iter(e.negatives), "") for e in dev]
    documents = [passages[id_].document_id if id_ in passages else id_ for id_ in about]
    # with many documents the dev questions are about some of them only, and speak for those
    few = len({p.document_id for p in passages.values()}) < ENOUGH_DOCUMENTS
    finer = [unit.get(id_, id_) for id_ in about] if few else None
    name = f"models/{part}/{id_}"
    return gate.judge(
        part, name, incumbent, measure, ours, theirs, documents,
        finer=finer, force=build.force, seed=build.settings.seed,
    )  # fmt: skip


def _settle(
    build: Build, verdict: gate.Verdict, id_: str, facts: Mapping[str, Any], encoder: Encoder | None = None
) -> dict[str, Any]:
    """Write the verdict down, then do what it says; a kill in between is made good by the next run."""
    folder = build.workspace.path / "models" / verdict.part / id_
    said = {"verdict": gate.as_json(verdict), **facts}
    _write(folder / "verdict.json", {**said, "settled": False})
    _carry_out(build, verdict, id_, encoder)
    _write(folder / "verdict.json", {**said, "settled": True})
    return said


def _kept_verdict(build: Build, part: Part, id_: str, judged: str) -> dict[str, Any] | None:
    """What an earlier run found of the same candidate, carried out if it was killed before that.

    None where it was `judged` by other questions, with another search or beside another retriever.
    """
    path = build.workspace.path / "models" / part / id_ / "verdict.json"
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if kept.get("judged") != judged:
        return None
    verdict = gate.from_json(kept["verdict"])
    if build.force and not verdict.accepted:
        return None
    if not kept.pop("settled", False):
        encoder = build.load_encoder(str(path.parent)) if part == "retriever" else None
        _carry_out(build, verdict, id_, encoder)
        _write(path, {**kept, "settled": True})
    return kept


def _carry_out(build: Build, verdict: gate.Verdict, id_: str, encoder: Encoder | None) -> None:
    from fieldstone.search.embed import embed_beside

    part, name = verdict.part, f"models/{verdict.part}/{id_}"
    current = newest(build.workspace, part)
    if current is not None and current.name == name and not verdict.accepted:
        roll_back(build.workspace, part)  # it won once, and does not against other questions
    if encoder is not None:
        base = build.load_encoder(build.settings.models.encoder)
        chosen = encoder if verdict.accepted else build.load_encoder(build.in_use(part))
        embed_beside(build.library, chosen, build.progress)  # documents may have come since a kill
        build.library.use_encoder(chosen.fingerprint, keep=(base.fingerprint,))
    if verdict.accepted and (current is None or current.name != name):
        models = build.settings.models
        base_name = models.encoder if part == "retriever" else models.generator
        now = datetime.now(UTC).isoformat(timespec="seconds")
        take_into_use(build.workspace, Choice(part, name, base_name, now, verdict.reason, verdict.forced))
    build.reopen()


def _verdicts(build: Build) -> list[dict[str, Any]]:
    """The verdicts of this build's steps, in order."""
    return [made["verdict"] for made in build.made.values() if "verdict" in made]


# -- measuring


def _ranks(index: Index, dev: Sequence[Example], build: Build) -> list[Value]:
    """Reciprocal rank of each question's passage among ten, before any reranking."""
    from fieldstone.evaluate.measures import reciprocal_rank
    from fieldstone.search import search

    plain = build.settings.search.model_copy(update={"rerank": "none"})
    values: list[Value] = []
    for start in range(0, len(dev), BATCH):
        batch = dev[start : start + BATCH]
        build.progress("judge retriever", start, len(dev), "questions")
        for example, hits in zip(batch, search(index, [e.question for e in batch], plain, 10), strict=True):
            ranked = [hit.passage.id for hit in hits]
            values.append(reciprocal_rank(ranked, (frozenset({example.passage_id or ""}),), 10))
    build.progress("judge retriever", len(dev), len(dev), "questions")
    return values


def _read_and_fit(
    system: System, dev: Sequence[Example], build: Build
) -> tuple[list[Read], dict[str, Weights]]:
    """What the system reads for the dev questions, and how far to trust it.

    The weights are fitted on all of them, and on either half, so that no question is judged by weights that
    were fitted on it.
    """
    found = _read(system, dev, build)
    halves = {"even": [i for i, e in enumerate(dev) if _half(e) == "even"], "all": list(range(len(dev)))}
    halves["odd"] = [i for i in halves["all"] if i not in set(halves["even"])]
    most = build.settings.answer.over_refusal
    return found, {
        name: _fit(system, [found[i] for i in its], [dev[i] for i in its], most)
        for name, its in halves.items()
    }


def _read(system: System, dev: Sequence[Example], build: Build) -> list[Read]:
    """What the system reads for the dev questions, before it is decided whether to trust it."""
    from fieldstone.answer import read

    found: list[Read] = []
    for start in range(0, len(dev), BATCH):
        build.progress("judge generator", start, len(dev), "questions")
        system.generator.forget()
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


def _answer_scores(
    system: System, found: Sequence[Read], weights: Mapping[str, Weights], dev: Sequence[Example]
) -> list[Value]:
    """Token F1 of each answer; of a question without one, 1 for a refusal and else 0 (SQuAD 2.0's F1)."""
    from fieldstone.answer import conclude
    from fieldstone.evaluate.measures import token_f1

    values: list[Value] = []
    for its, example in zip(found, dev, strict=True):
        other = "odd" if _half(example) == "even" else "even"
        given = conclude(replace(system, weights=weights[other]), its)
        if example.kind == "answerable":
            values.append(0.0 if given.abstained else token_f1(given.text, [example.answer]))
        else:
            values.append(float(given.abstained))
    return values


def _lesson_score(rows: Sequence[Any], max_tokens: int) -> Callable[[Generator], float]:
    """Token F1 between what a generator writes for these rows and what it should."""
    from fieldstone.evaluate.measures import token_f1

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


# -- small things


def _answerable(examples: Sequence[Example]) -> list[Example]:
    return [e for e in examples if e.passage_id is not None]


def _told(examples: Sequence[Example]) -> list[Example]:
    """Those with an answer, and those that have none for certain."""
    return [e for e in examples if e.answer or e.kind == "unanswerable"]


def _sample(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most so many, drawn by their fingerprint, in their order."""
    drawn = {e.id for e in sorted(examples, key=lambda e: fingerprint("sample", seed, e.id))[:most]}
    return [e for e in examples if e.id in drawn]


def _half(example: Example) -> str:
    about = example.passage_id or next(iter(example.negatives), "")
    return "even" if int(fingerprint("half", about), 16) % 2 == 0 else "odd"


def _own_examples(build: Build) -> list[Example]:
    """The user's questions as examples; those whose evidence is not found teach nothing."""
    from fieldstone.evaluate.run import judge

    if not build.teach:
        return []
    judged, _ = judge(build.library, build.teach)
    return [
        Example(
            item.question.id, item.question.question, next(iter(item.question.answers), ""),
            min(item.relevant[0]) if item.relevant else None, (),
            "answerable" if item.relevant else "unanswerable", "human",
        )
        for item in judged
        if item.relevant or not item.question.answerable
    ]  # fmt: skip


def _named(build: Build, what: str) -> Progress:
    def told(step: str, done: int, total: int, unit: str) -> None:
        build.progress(f"{step}: {what}", done, total, unit)

    return told


def _write(path: Path, content: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(path)
