"""The steps that tune a workspace and prove it: synthesize, tune each part, gate it, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone.errors import QuestionsError
from fieldstone.examples import SPLITS
from fieldstone.feedback import feedback_examples
from fieldstone.in_use import keep_trust, reranking_model
from fieldstone.recipes.candidates import kept_verdict, put_to_gate, settle, verdicts_of
from fieldstone.recipes.curves import curves_of
from fieldstone.recipes.dev import (
    answer_scores,
    answerable,
    lesson_score,
    read_all,
    read_and_fit,
    reciprocal_ranks,
    sample,
    told,
)
from fieldstone.recipes.instruct import asking, general_rows, instruct_mark, instructed
from fieldstone.recipes.reranking import margins, teacher_of
from fieldstone.records import Example, fingerprint

if TYPE_CHECKING:
    from fieldstone.answer import System
    from fieldstone.evaluate.evaluation import QuestionSet
    from fieldstone.evaluate.run import Judged
    from fieldstone.evaluate.statistics.agreement import Agreement
    from fieldstone.models import Vectors
    from fieldstone.progress import Progress
    from fieldstone.recipes.build import Build
    from fieldstone.search.confidence import Weights
    from fieldstone.settings import GeneratorTuning
    from fieldstone.tune.generator import Row
    from fieldstone.tune.retriever import Contrast, Ranking

DEV_QUESTIONS = 160
"""Dev questions that decide about a generator, at most: each is answered by two systems."""

CHECKED = 32
"""Dev examples that choose between the checkpoints of a generator."""

VERSIONS = ("fieldstone", "torch", "transformers", "sentence-transformers", "peft")


def synthesize(build: Build) -> dict[str, Any]:
    """Questions from the passages, and the user's own among them."""
    from fieldstone.synthesize import synthesize as write

    folder, own = build.workspace.path / "examples", own_examples(build)
    inputs = fingerprint(
        build.library.meta("library"), build.passages_mark, build.settings.synthesize, build.settings.seed,
        build.settings.models.writer or build.settings.models.generator, build.settings.search.mode,
        *map(asdict, own), *instruct_mark(build),
    )  # fmt: skip
    done = build.done("synthesize", inputs)
    if done and all((folder / f"{split}.jsonl").exists() for split in SPLITS):
        return done
    index, (name, generator) = build.open_index(), asking(build)
    made = write(folder, index, generator, build.settings, own, build.progress, spread=build.spread)
    return {"inputs": inputs, "model": name, **asdict(made)}


def tune_retriever(build: Build) -> dict[str, Any]:
    """A candidate for the retriever, judged on the dev questions by the rank of their passage."""
    settings, train = build.settings, answerable(build.examples("train"))
    base = settings.models.encoder
    margin = settings.retriever.loss == "margin"
    teacher = (teacher_of(build), build.passages_mark) if margin else (settings.models.generator,)
    id_ = fingerprint(
        "retriever", base, settings.retriever, settings.search, *teacher, settings.seed,
        settings.answer.reading if settings.retriever.loss == "lsr" else "", *(e.id for e in train),
        *_taught_by(build), build.passages_mark if settings.retriever.warm_up != "none" else "",
    )  # fmt: skip
    if len(train) < 2:
        return {"skipped": f"{len(train)} training questions are too few"}
    dev = answerable(build.examples("dev"))
    judged = fingerprint(settings.search, *(e.id for e in dev))
    if kept := kept_verdict(build, "retriever", id_, judged):
        return kept

    from fieldstone.tune.retriever import tune_retriever as tune  # a build that is up to date loads no torch
    from fieldstone.tune.together import everywhere

    data = retriever_data(build)
    models = settings.models
    folder = build.workspace.path / "models" / "retriever" / id_
    try:
        tuned = everywhere(
            tune, base, data, folder, settings.retriever, known=known_vectors(build, data),
            passages=_warming(build), seed=settings.seed,
            device=models.device, threads=models.threads or None, progress=build.progress,
        )  # fmt: skip
    except QuestionsError as error:  # a handful of documents teach nothing, and can be asked all the same
        return {"skipped": str(error)}
    facts = {"questions": len(data), "steps": tuned.steps, "tuning seconds": round(tuned.seconds, 1)}
    return judge_retriever(build, id_, dev, {"judged": judged, **facts})


def judge_retriever(
    build: Build, id_: str, dev: Sequence[Example], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the encoder in `models/retriever/ID` to the gate by the rank of each dev question's passage."""
    from fieldstone.search.embed import embed_beside

    candidate = build.load_encoder(str(build.workspace.path / "models" / "retriever" / id_))
    embed_beside(build.library, candidate, build.progress, build.spread)
    now = build.in_use("retriever", but=id_)
    new_values = reciprocal_ranks(build.open_index(encoder=candidate), dev, build)
    old_values = reciprocal_ranks(build.open_index(encoder=build.load_encoder(now)), dev, build)
    measure = f"MRR@10 ({build.settings.search.mode} search)"
    verdict = put_to_gate(build, "retriever", id_, now, measure, new_values, old_values, dev)
    return settle(build, verdict, id_, facts, candidate)


def retriever_data(build: Build) -> Sequence[Contrast] | Sequence[Ranking]:
    """The training questions as the loss of the settings wants them."""
    settings, train = build.settings, answerable(build.examples("train"))
    how, texts = settings.retriever, build.library.passage_texts()
    train = [e for e in train if e.passage_id in texts]
    mark = fingerprint(
        how.loss, how.candidates, how.negatives, settings.seed, settings.models.encoder,
        settings.models.generator, settings.search, *_taught_by(build), *(e.id for e in train),
    )  # fmt: skip
    kept = build.workspace.cache / "teacher" / f"{mark}.jsonl"
    if how.loss == "margin":
        return margins(build, train, texts)
    if how.loss == "distill":
        from fieldstone.tune.retriever.teacher import rank, rank_by_attention

        questions = [e.question for e in train]
        if how.teacher_kind == "cross-attention":
            reader = build.load_generator(_reader(build))
            found = (build.open_index(), questions, settings.search, how.candidates)
            return rank_by_attention(*found, reader, kept, build.progress)
        index = build.open_index(likelihood=True)
        return rank(index, questions, settings.search, how.candidates, kept, build.progress)
    if how.loss == "lsr":
        from fieldstone.answer import way_of_reading
        from fieldstone.tune.retriever.teacher import supervise

        index = build.open_index(build.base_encoder(), likelihood=True)
        reading = way_of_reading(build.generator, settings.answer)
        return supervise(index, train, settings, reading, kept, build.progress)
    if how.loss == "fused":
        from fieldstone.tune.retriever.contrast import beside_lexical

        taught = how.teacher > 0 and how.negatives > 0
        index = build.open_index(build.base_encoder(), likelihood=taught)
        return beside_lexical(index, train, settings, texts, kept, build.progress)
    from fieldstone.tune.retriever.contrast import contrast

    return [contrast(e, [n for n in e.negatives if n in texts], texts) for e in train]


def _warming(build: Build) -> list[str]:
    """The passages that the encoder warms up on: all of them, where it does."""
    return list(build.library.passage_texts().values()) if build.settings.retriever.warm_up == "tsdae" else []


def _reader(build: Build) -> str:
    """The reader whose cross-attention teaches the retriever."""
    return build.settings.retriever.reader or build.in_use("generator")


def _taught_by(build: Build) -> tuple[str, ...]:
    """The reader, where one teaches; nothing where the settings name the teacher."""
    attentive = build.settings.retriever.teacher_kind == "cross-attention"
    return (Path(_reader(build)).name,) if attentive else ()


def known_vectors(build: Build, data: Sequence[Contrast] | Sequence[Ranking]) -> dict[str, Vectors]:
    """Text -> vector of the base, where the passages keep theirs: what the search will go by."""
    if build.settings.retriever.towers == "both":
        return {}
    from fieldstone.tune.retriever import passages_of

    wanted = {text for item in data for text in passages_of(item)}
    texts = {id_: text for id_, text in build.library.passage_texts().items() if text in wanted}
    batches = build.library.vectors(build.base_encoder().fingerprint, list(texts))
    return {texts[id_]: row for ids, rows in batches for id_, row in zip(ids, rows, strict=True)}


def tune_generator(build: Build, taught: Sequence[Example] | None = None) -> dict[str, Any]:
    """A candidate for the generator, judged on the dev questions by the score of its answers.

    It learns from the train examples, or from those `taught`.
    """
    settings = build.settings
    train, dev = told(build.examples("train") if taught is None else taught), told(build.examples("dev"))
    base = settings.models.generator
    shown = (
        [Path(build.in_use("retriever")).name, build.passages_mark] if _searched(settings.generator) else []
    )
    id_ = fingerprint(
        "generator", base, settings.generator, settings.answer, settings.seed, *(e.id for e in train),
        *shown, *instruct_mark(build),
    )  # fmt: skip
    judged = fingerprint(search_mark(build), Path(build.in_use("retriever")).name, *(e.id for e in dev))
    if kept := kept_verdict(build, "generator", id_, judged):
        return kept
    if base.startswith(("http://", "https://")):
        return {"skipped": f"{base} is a model server, whose weights cannot be tuned from here"}

    from fieldstone.models.huggingface import is_encoder_decoder

    if is_encoder_decoder(base):
        from fieldstone.tune.generator.seq2seq import tune_seq2seq as tune
    else:
        from fieldstone.tune.generator import tune_generator as tune

    from fieldstone.tune.together import everywhere

    rows = generator_rows(build, train, settings.seed)
    if len(rows) < 2:
        return {"skipped": f"{len(rows)} training examples are too few"}
    rows += general_rows(build, len(rows))
    several = settings.generator.epochs * settings.generator.checks > 1  # checkpoints to choose between
    checked = generator_rows(build, sample(dev, CHECKED if several else 0, settings.seed), settings.seed)
    build.__dict__.pop("generator", None)  # one copy of the weights less while tuning
    models = settings.models
    folder = build.workspace.path / "models" / "generator" / id_
    tuned = everywhere(
        tune, instructed(build) or base, rows, folder, settings.generator,
        dev_score=lesson_score(checked, settings.answer.max_tokens), seed=settings.seed, device=models.device,
        threads=models.threads or None, progress=build.progress,
    )  # fmt: skip

    facts = {
        "rows": tuned.rows, "steps": tuned.steps, "tuning seconds": round(tuned.seconds, 1),
        "dev scores": [list(pair) for pair in tuned.scores] if several else [],
    }  # fmt: skip
    return judge_generator(build, id_, dev, {"judged": judged, **facts})


def judge_generator(
    build: Build, id_: str, dev: Sequence[Example], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the generator in `models/generator/ID` to the gate by the score of its answers to dev questions.

    It is judged with thresholds of its own, what is in use with those that it came with.
    """
    folder = build.workspace.path / "models" / "generator" / id_
    asked = sample(dev, DEV_QUESTIONS, build.settings.seed)
    now = build.in_use("generator", but=id_)
    candidate = build.load_generator(str(folder))
    system = build.system(candidate)
    read, weights = read_and_fit(system, asked, build)
    new_values = answer_scores(system, read, weights, asked)
    old = build.system(build.load_generator(now), trusted=True)
    old_read = read_all(old, asked, build)
    old_values = answer_scores(old, old_read, dict.fromkeys(weights, old.weights), asked)
    verdict = put_to_gate(build, "generator", id_, now, "answer score", new_values, old_values, asked)
    if verdict.accepted:
        reranker = reranking_model(build.searching())
        keep_trust(build.workspace, build.in_use("retriever"), str(folder), weights["all"], reranker)
    return settle(build, verdict, id_, facts)


def generator_rows(
    build: Build, examples: Sequence[Example], seed: int, tuning: GeneratorTuning | None = None
) -> list[Row]:
    """These examples as prompts and replies, in the way of reading of the settings.

    `tuning` stands in for that of the settings.
    """
    from fieldstone.answer import way_of_reading
    from fieldstone.tune.generator.lessons import check_lessons, lessons, look_up

    settings, how = build.settings, tuning or build.settings.generator
    reading = way_of_reading(build.generator, settings.answer)
    check_lessons(how.lessons, reading)
    found = look_up(build.open_index(), examples, settings, build.progress) if _searched(how) else None
    return lessons(
        examples,
        build.library.passage_texts(),
        reading,
        how,
        settings.answer.passages,
        seed,
        found,
    )


def _searched(how: GeneratorTuning) -> bool:
    """Whether the rows of the generator show what the search finds."""
    return how.lessons != "gold"


def fit_on_dev(build: Build, system: System) -> Weights:
    """How far to trust this system, as found on the dev questions."""
    asked = sample(told(build.examples("dev")), DEV_QUESTIONS, build.settings.seed)
    return read_and_fit(system, asked, build)[1]["all"]


def report(build: Build) -> dict[str, Any]:
    """Before and after on the test questions and on the user's own, read once for this report."""
    from fieldstone.answer import System
    from fieldstone.evaluate.evaluation import Evaluation
    from fieldstone.evaluate.report.files import write_report
    from fieldstone.evaluate.run import judge, judge_examples, measure
    from fieldstone.evaluate.statistics.agreement import WRITTEN

    settings, test = build.settings, told(build.examples("test"))
    kept_back = {
        "your questions, kept back": [e for e in test if e.origin == "human"],
        "questions from use, kept back": [e for e in test if e.origin == "feedback"],
        WRITTEN: sample([e for e in test if e.origin == "synthetic"], DEV_QUESTIONS, settings.seed),
    }
    asked = [e.id for its in kept_back.values() for e in its]
    verdicts = tuple(verdicts_of(build))
    models = [build.in_use("retriever"), build.in_use("generator")]
    inputs = fingerprint(
        build.passages_mark, models, search_mark(build), settings.answer, *asked, *build.questions
    )
    done = build.done("report", inputs)
    if done and Path(str(done["report"])).exists():
        return done
    index = build.open_index(
        build.base_encoder(), generator=build.generator, reranker=reranking_model(settings)
    )
    before = System(index, build.generator, settings)
    tuned = models != [settings.models.encoder, settings.models.generator] or build.searching() != settings
    after = build.system(build.load_generator(models[1]), trusted=True) if tuned else before
    systems = {"before": before, "after": after}
    asking: dict[str, list[Judged]] = {}
    notes: list[str] = []
    if build.questions:
        asking["human questions"], missing = judge(build.library, build.questions)
        notes += missing
    asking |= {name: judge_examples(build.library, its) for name, its in kept_back.items() if its}
    if not asking:
        return {"skipped": "there are no test questions"}
    sets = {name: measure(systems, its, None, _named(build, name)) for name, its in asking.items()}
    build.library.use_encoder(build.encoder.fingerprint)  # the base's vectors have served
    paths = write_report(
        build.workspace.reports,
        Evaluation(
            date=datetime.now(UTC),
            settings=settings.model_dump(mode="json"),
            notes=tuple(notes),
            sets=sets,
            verdicts=verdicts,
            agreement=_agreement(sets, asking),
            versions={name: version(name) for name in VERSIONS},
            curves=tuple(curves_of(build.workspace.path, [str(v["candidate"]) for v in verdicts])),
        ),
    )
    return {"inputs": inputs, "report": str(paths.json), "page": str(paths.html)}


def _agreement(sets: Mapping[str, QuestionSet], asking: Mapping[str, Sequence[Judged]]) -> Agreement | None:
    """Whether the synthetic questions tell what the first set, of human ones, tells."""
    from fieldstone.evaluate.measures.named import DEFAULTS
    from fieldstone.evaluate.statistics.agreement import WRITTEN, agreement
    from fieldstone.evaluate.statistics.summary import measured

    human = next(iter(sets))
    if human == WRITTEN or WRITTEN not in sets:
        return None
    both = (
        measured(sets[name].rows, asking[name], list(sets[name].systems), DEFAULTS)
        for name in (human, WRITTEN)
    )
    return agreement(*both, names=(human, WRITTEN))


def search_mark(build: Build) -> str:
    """Stands for the search in use, but for its encoder."""
    settings = build.searching()
    return fingerprint(settings.search, Path(reranking_model(settings)).name)


def own_examples(build: Build) -> list[Example]:
    """The user's questions as examples, and what people said of answers.

    Those whose evidence is not found teach nothing.
    """
    from fieldstone.evaluate.run import judge

    said = feedback_examples(build.library, build.settings.feedback.learn)
    if not build.teach:
        return said
    judged, _ = judge(build.library, build.teach)
    return said + [
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
