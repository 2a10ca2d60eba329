"""A published benchmark run from end to end: its documents indexed, its questions asked and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fieldstone.errors import SettingsError
from fieldstone.models import Generator, load_generator
from fieldstone.progress import Progress, silent
from fieldstone.recipes import load_recipe, run_steps
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

if TYPE_CHECKING:
    from fieldstone.evaluate.benchmarks.benchmark import Benchmark
    from fieldstone.evaluate.evaluation import Evaluation
    from fieldstone.evaluate.questions import Question
    from fieldstone.evaluate.run import Judged
    from fieldstone.library import Library

SEARCHES = ("lexical", "dense", "fused")
"""Asked where nothing but relevance is known, unless others are named."""


def is_own(workspace: Workspace | None, benchmark: Benchmark) -> bool:
    """Whether a workspace is of the benchmark's own documents, or is still to be made of them (None too)."""
    from fieldstone.evaluate.benchmarks.library import holds

    if not benchmark.documents:
        return False
    if workspace is None or not (workspace.path / "library.db").is_file():
        return True
    library = workspace.library()
    try:
        return holds(library, benchmark)
    finally:
        library.close()


def build_from(
    benchmark: Benchmark, workspace: Workspace, settings: Settings, progress: Progress = silent
) -> None:
    """Put the benchmark's documents into the workspace and run the other steps of the settings' recipe.

    A step whose work is done is skipped. Raises WorkspaceError when the workspace holds other documents.
    """
    from fieldstone.evaluate.benchmarks.library import put

    with workspace.writing():
        library = workspace.library()
        try:
            put(library, benchmark, progress)
        finally:
            library.close()
    steps = [step for step in load_recipe(settings.recipe).steps if step not in ("read", "split", "report")]
    run_steps(steps, workspace, settings, progress)


def ask_workspace(
    benchmark: Benchmark,
    workspace: Workspace,
    settings: Settings,
    questions: Sequence[Question],
    systems: Sequence[str] = (),
    progress: Progress = silent,
) -> Evaluation:
    """Ask these questions of the benchmark over a workspace, of its own documents or of others.

    Over its own, relevant is what the benchmark says; over others, what holds the evidence. Raises
    SettingsError where nothing can be measured: relevance alone over other documents, or answers of it.
    """
    from fieldstone.evaluate.benchmarks.library import judge_by_grades
    from fieldstone.evaluate.run import Judged, evaluate, judge

    if benchmark.choices:
        return _ask_with_background(benchmark, workspace, settings, questions, progress)
    if not benchmark.answered and (answering := [name for name in systems if "/" in name]):
        raise SettingsError(
            f"{answering[0]} answers, but this benchmark knows no answers; name searches, such as fused"
        )
    own = is_own(workspace, benchmark)
    located = any(question.evidence or question.source for question in questions)
    if not (own or benchmark.answered):
        raise SettingsError(
            f"{workspace.path} holds other documents than this benchmark, whose relevance is of its own; "
            "leave out --workspace, or name a new folder"
        )

    def judging(library: Library, asked: Sequence[Question]) -> tuple[list[Judged], tuple[str, ...]]:
        if own:
            return judge_by_grades(library, asked, benchmark.grades)
        if located:
            return judge(library, asked)
        return [Judged(question, ()) for question in asked], (
            "where the answers stand is not known, so there are no measures of retrieval",
        )

    names = systems or (() if benchmark.answered else SEARCHES)
    found = evaluate(workspace, settings, questions, names, progress, judging=judging)
    return replace(found, notes=(*found.notes, *benchmark.notes))


def ask_generator(
    benchmark: Benchmark,
    settings: Settings,
    questions: Sequence[Question],
    progress: Progress = silent,
    generator: Generator | None = None,
    background: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Ask these questions of the generator alone, closed book; it is loaded unless one is given.

    `background`: question id -> passages to show with a multiple-choice question.
    """
    from fieldstone.evaluate.evaluation import Evaluation
    from fieldstone.evaluate.systems.alone import ask_alone

    found = ask_alone(
        generator or _load(settings), settings.models.generator, benchmark, questions, progress,
        background=background, max_tokens=settings.answer.max_tokens,
    )  # fmt: skip
    shots = {len(its) for its in benchmark.shots.values()} or {0}
    how = f"{max(shots)} examples before each question" if benchmark.choices else "without documents"
    return Evaluation(
        date=datetime.now(UTC),
        systems=found.systems,
        differences=found.differences,
        settings=settings.model_dump(mode="json"),
        notes=(how, *found.notes, *benchmark.notes),
        rows=found.rows,
    )


def _ask_with_background(
    benchmark: Benchmark,
    workspace: Workspace,
    settings: Settings,
    questions: Sequence[Question],
    progress: Progress,
) -> Evaluation:
    """Multiple choice with the passages that the search finds for each question; options are not searched."""
    from fieldstone.in_use import with_tuned
    from fieldstone.search import search
    from fieldstone.search.open import open_index

    used = with_tuned(workspace, settings)
    generator = _load(used)
    index = open_index(workspace, used, generator)
    asked = [question.question for question in questions]
    hits = search(index, asked, used.search, used.answer.passages)
    texts = index.library.passage_texts(hit.passage for its in hits for hit in its)
    background = {
        question.id: [texts[hit.passage.id] for hit in its]
        for question, its in zip(questions, hits, strict=True)
    }
    index.library.close()
    return ask_generator(benchmark, used, questions, progress, generator, background)


def _load(settings: Settings) -> Generator:
    models = settings.models
    return load_generator(
        models.generator, device=models.device, threads=models.threads or None, engine=models.engine
    )
