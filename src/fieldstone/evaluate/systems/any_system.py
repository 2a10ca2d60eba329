"""Systems of any making put to the test: answers from files or from an endpoint, beside our own or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fieldstone.errors import ModelError, SettingsError
from fieldstone.evaluate.evaluation import Evaluation
from fieldstone.evaluate.judge.fitness import Grader, examine
from fieldstone.evaluate.judge.second_look import with_grades
from fieldstone.evaluate.measures.lost import answering
from fieldstone.evaluate.measures.named import DEFAULTS, check_names
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.report.files import PASSAGES_READ
from fieldstone.evaluate.report.worst import passages_of, worst
from fieldstone.evaluate.run import Judged, evaluate, summarise
from fieldstone.evaluate.systems.answers import Given, read_answers
from fieldstone.evaluate.systems.matched import match_answers, rows_of, texts_of
from fieldstone.models import load_generator
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Ours:
    """A workspace with its settings, and the systems of it that are asked too."""

    workspace: Workspace
    settings: Settings
    systems: tuple[str, ...] = ()


def evaluate_answers(
    questions: Sequence[Question],
    files: Sequence[Path] = (),
    given: Sequence[Given] = (),
    ours: Ours | None = None,
    progress: Progress = silent,
    measures: Sequence[str] = DEFAULTS,
    grader: Grader | None = None,
) -> Evaluation:
    """Measure the answers of `files` and those `given`, and compare the systems that they are of in pairs.

    With `ours`, passages are known by their ids, and its systems answer the same questions. A `grader` that
    is fit grades the answers of them all.
    """
    measures = check_names(measures)
    from_files, damaged = read_answers(files)
    matched = match_answers(questions, [*from_files, *given])
    rows: list[Mapping[str, Any]] = []
    names = [*matched.answers]
    notes = [*damaged, *matched.notes]
    texts: dict[str, str] = {}
    if ours is None:
        rows += rows_of(matched, measures)
    else:
        if same := set(ours.systems) & set(names):
            raise SettingsError(f"two systems are called {same.pop()}; rename the file of its answers")
        library = ours.workspace.library()
        texts = {p.id: p.text for p in library.passages()}
        library.close()
        rows += rows_of(matched, measures, texts.get)
        if ours.systems:
            own = evaluate(ours.workspace, ours.settings, matched.asked, ours.systems, progress, measures)
            rows = [*own.rows, *rows]
            names = [*ours.systems, *names]
            notes += own.notes[1:]
    judged: dict[str, Any] = {}
    if grader is not None:
        rows, judged = with_grades(rows, grader.generator, examine(grader, None, progress), None, progress)
        notes.append(judged["sentence"])
    found = summarise(rows, [Judged(question, ()) for question in matched.asked], names, measures)
    notes = [note for note in notes if note not in found.notes]
    texts |= texts_of(matched)
    read = ours.settings.answer.passages if ours else PASSAGES_READ
    cases = [case for its in answering(rows).values() for case in worst(its, read)]
    return Evaluation(
        date=datetime.now(UTC),
        systems=found.systems,
        differences=found.differences,
        tests=found.tests,
        judged=judged,
        settings=ours.settings.model_dump(mode="json") if ours else {},
        notes=(*found.notes, *notes),
        rows=rows,
        passages={id_: texts[id_] for id_ in passages_of(cases) if id_ in texts},
    )


def asked_of_endpoint(
    url: str,
    questions: Sequence[Question],
    folder: Path,
    context: Ours | None = None,
    progress: Progress = silent,
) -> tuple[list[Given], tuple[str, ...], Path]:
    """The answers of the endpoint `http://…/v1#model`, notes on what failed, and the file that keeps them.

    With `context` each question goes out with the passages that this workspace finds. What failed counts as
    unanswered. The file lies below `folder`; as long as it is there, the next call asks only what it lacks.
    """
    from fieldstone.evaluate.systems.endpoint import ask_endpoint, retrieve

    if not url.startswith(("http://", "https://")):
        raise ModelError(f"{url!r} is no address of an endpoint; write http://host:port/v1#model")
    generator = load_generator(url)
    shown = retrieve(context.workspace, context.settings, questions) if context else None
    mark = fingerprint(url, shown, *((question.id, question.question) for question in questions))
    kept = folder / f"endpoint-{mark}.jsonl"
    notes = ask_endpoint(generator, questions, kept, shown, progress)
    given = {its.id: its for its in (read_answers([kept])[0] if kept.stat().st_size else [])}
    name = url.partition("#")[2]
    answers = [given.get(q.id) or Given(name, q.id, q.question, "", abstained=True) for q in questions]
    return [replace(its, system=name) for its in answers], notes, kept
