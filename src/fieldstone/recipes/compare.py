"""Compare recipes on one library: the same documents and divisions, the same questions to measure with.

Each recipe writes its own training questions once, with the seed of its settings; then it tunes once a seed.
Training, deciding and measuring use the same passages in all of them, whatever the seed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone.atomic import write_json
from fieldstone.errors import QuestionsError, WorkspaceError
from fieldstone.evaluate.measures.named import DEFAULTS
from fieldstone.evaluate.statistics.agreement import WRITTEN, YOURS, agreement
from fieldstone.evaluate.statistics.seeds import total
from fieldstone.examples import read_examples
from fieldstone.progress import Progress, silent
from fieldstone.recipes import choose_settings, load_recipe, run_steps
from fieldstone.recipes.dev import sample, told
from fieldstone.records import Example, fingerprint
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace, create_workspace

if TYPE_CHECKING:
    from fieldstone.evaluate.evaluation import Evaluation, QuestionSet
    from fieldstone.evaluate.questions import Question
    from fieldstone.evaluate.run import Judged
    from fieldstone.evaluate.statistics.agreement import Agreement

SYNTHETIC = 160
"""Written questions that are measured with, at most."""

KEPT = ("examples/yours.jsonl", "examples/asked.jsonl")
"""Of the workspace's own: questions that it was taught, and what it wrote, for recipes that write alike."""


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe run once: the gate's verdicts, the seconds of its tuning, what each question was answered.

    `skipped` says of steps that did nothing why; `rows` are those of `evaluate.run.measure`, a list a set of
    questions.
    """

    recipe: str
    seed: int
    seconds: float
    verdicts: Sequence[Mapping[str, Any]]
    skipped: Sequence[str]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs, and what they come to: an evaluation whose systems are the recipes, each over all its runs.

    The intervals of a recipe that ran several times are over documents and seeds (see `seeds`), so they tell
    of the recipe, not of these models; those of a recipe that tuned once tell of that one model.
    `spread` has what each seed came to.
    """

    runs: tuple[Run, ...]
    evaluation: Evaluation

    def spread(self, questions: str, recipe: str, measure: str) -> tuple[float, ...]:
        """What each seed came to under a measure, in their order; nothing where it does not apply."""
        found = []
        for run in self.runs:
            values = [row["measures"].get(measure) for row in run.rows[questions]]
            if run.recipe == recipe and (over := total(values)) is not None:
                found.append(over[0] / over[1])
        return tuple(found)


def compare(
    workspace: Workspace,
    names: Sequence[str],
    seeds: Sequence[int],
    flags: Sequence[str] = (),
    questions: Sequence[Question] = (),
    *,
    limit: int = 0,
    keep: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Run each recipe once a seed over a copy of the library, and measure them all with the same questions.

    They are the given `questions` and those that the workspace wrote for its report, `limit` of each (0: all
    of yours, 160 of the written). Models, splitting and reading are the workspace's; `flags` change the
    settings of every recipe. A recipe without tuning runs once. All lies in `WORKSPACE/compare`; a run that
    is measured is not run again, and its models are deleted unless `keep` says otherwise.

    Raises QuestionsError when there is nothing to measure with, and what the steps raise.
    """
    from fieldstone.evaluate.evaluation import Evaluation

    sets, notes = _questions(workspace, questions, limit)
    folder = workspace.path / "compare"
    runs: list[Run] = []
    for name in names:
        recipe, settings = load_recipe(name), _settings(workspace, name, flags)
        first, rest = _written_and_tuned(recipe.steps)
        library = _mark(workspace)
        key = fingerprint(library, settings, *first)
        for seed in seeds if rest else seeds[:1]:
            said = _named(progress, f"{name}, seed {seed}" if rest else name)
            own = settings.model_copy(update={"seed": seed})
            asked = [item.question for its in sets.values() for item in its]
            mark = fingerprint(key, own, rest, *sets, *asked)
            place = folder / f"{name}-{seed}"
            kept = place.with_suffix(".json")
            known = _read_run(kept, mark)
            if known is None:
                base = _copy(workspace, folder / name, key, KEPT)
                run_steps(first, base, settings, _named(progress, name))
                tuned = _copy(base, place, mark, ("examples", "models", "journal.jsonl"))
                known = _run(tuned, name, own, rest, sets, said)
                write_json(kept, {"key": mark, **asdict(known)})
                if not keep:
                    shutil.rmtree(place)
            runs.append(known)
        if not keep:
            shutil.rmtree(folder / name / "models", ignore_errors=True)
    found = {title: _joined(title, names, runs, judged) for title, judged in sets.items()}
    found = {title: _with_passages(workspace, its) for title, its in found.items()}
    evaluation = Evaluation(
        date=datetime.now(UTC),
        sets=found,
        notes=(*notes, *map(_in_words, runs)),
        settings={},
        agreement=_agreement(names, runs, sets) if len(sets) > 1 else None,
    )
    return Comparison(tuple(runs), evaluation)


def written_questions(workspace: Workspace, limit: int = 0) -> list[Example]:
    """What the workspace wrote for its report: so many drawn by their fingerprint, 160 where `limit` is 0."""
    test = told(read_examples(workspace.path / "examples" / "test.jsonl"))
    return sample([example for example in test if example.origin == "synthetic"], limit or SYNTHETIC, 0)


def _questions(
    workspace: Workspace, questions: Sequence[Question], limit: int
) -> tuple[dict[str, list[Judged]], tuple[str, ...]]:
    """What is measured with, under the names of the sets."""
    from fieldstone.evaluate.run import judge, judge_examples

    library = workspace.library()
    try:
        yours, missing = judge(library, questions) if questions else ([], ())
        drawn = sorted(yours, key=lambda item: fingerprint("compare", item.question.id))[: limit or None]
        chosen = {item.question.id for item in drawn}
        written = judge_examples(library, written_questions(workspace, limit))
    finally:
        library.close()
    sets = {YOURS: [item for item in yours if item.question.id in chosen], WRITTEN: written}
    if not any(sets.values()):
        raise QuestionsError(
            f"there are no questions to compare with in {workspace.path}; type: fieldstone synthesize "
            f"{workspace.path}, or give some of your own with --measure FILE"
        )
    return {name: its for name, its in sets.items() if its}, missing


def _settings(workspace: Workspace, name: str, flags: Sequence[str]) -> Settings:
    """The recipe's settings, with the workspace's ways of reading and splitting, and its models."""
    stored = workspace.stored_settings()
    usual = choose_settings(None, stored)
    same = [f"models.encoder={usual.models.encoder}", f"models.generator={usual.models.generator}"]
    shares = [f"synthesize.dev={usual.synthesize.dev}", f"synthesize.test={usual.synthesize.test}"]
    size = usual.size if usual.size in load_recipe(name).sizes else None
    settings = choose_settings(name, {}, flags=[*same, *shares, *flags], size=size)
    return settings.model_copy(update={"read": usual.read, "split": usual.split})


def _written_and_tuned(steps: Sequence[str]) -> tuple[list[str], list[str]]:
    """A recipe's steps up to the writing of questions, and those after it, which differ by seed.

    Nothing is read or split again: all are measured by the same passages.
    """
    own = [step for step in steps if step not in ("read", "split", "report")]
    after = own.index("synthesize") + 1 if "synthesize" in own else len(own)
    return own[:after], own[after:]


def _mark(workspace: Workspace) -> str:
    library = workspace.library()
    try:
        return fingerprint(library.id, library.meta("encoder"), *(p.id for p in library.passages()))
    finally:
        library.close()


def _copy(source: Workspace, target: Path, key: str, more: Sequence[str]) -> Workspace:
    """A workspace with the library of another and these of its files, or what is there of the same `key`."""
    note = target / "compared.txt"
    if note.is_file() and note.read_text(encoding="utf-8") == key:
        return Workspace(target)
    shutil.rmtree(target, ignore_errors=True)
    try:
        made = create_workspace(target)
        with (
            closing(sqlite3.connect(source.path / "library.db")) as old,
            closing(sqlite3.connect(target / "library.db")) as new,
        ):
            old.backup(new)
        library = made.library()
        library.set_meta("made by", "")  # the vectors in use may be of a tuned encoder, which stays behind
        library.close()
        for name in more:
            if (source.path / name).is_dir():
                shutil.copytree(source.path / name, target / name)
            elif (source.path / name).is_file():
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copy(source.path / name, target / name)
        note.write_text(key, encoding="utf-8")
    except OSError as error:
        raise WorkspaceError(
            f"{target} cannot be written: {error}; make room there and type the command again: it goes on"
        ) from error
    return made


def _run(
    place: Workspace,
    name: str,
    settings: Settings,
    steps: Sequence[str],
    sets: Mapping[str, Sequence[Judged]],
    progress: Progress,
) -> Run:
    from fieldstone.answer import open_system
    from fieldstone.evaluate.run import measure

    began = time.perf_counter()
    built = run_steps(steps, place, settings, progress)
    seconds = time.perf_counter() - began
    system = open_system(place, settings)
    rows = {title: measure({name: system}, its, None, progress).rows for title, its in sets.items()}
    system.index.library.close()
    verdicts = [made["verdict"] for made in built.made.values() if "verdict" in made]
    skipped = [
        f"{step} was skipped: {made['skipped']}"
        for step, made in built.made.items()
        if isinstance(made.get("skipped"), str)
    ]
    return Run(name, settings.seed, round(seconds, 1), verdicts, skipped, rows)


def _joined(title: str, names: Sequence[str], runs: Sequence[Run], judged: Sequence[Judged]) -> QuestionSet:
    """The set of questions with each recipe as a system that ran once a seed; its rows name both."""
    from fieldstone.evaluate.run import summarise

    return summarise(_by_seed(title, runs), judged, names)


def _with_passages(workspace: Workspace, questions: QuestionSet) -> QuestionSet:
    """With the passages that the report shows; every recipe had the same."""
    from fieldstone.evaluate.run import passages_shown

    library = workspace.library()
    try:
        settings = choose_settings(None, workspace.stored_settings())
        return replace(questions, passages=passages_shown(library, questions.rows, settings))
    finally:
        library.close()


def _agreement(names: Sequence[str], runs: Sequence[Run], sets: Mapping[str, Sequence[Judged]]) -> Agreement:
    """Whether the written questions tell of the recipes what yours tell."""
    from fieldstone.evaluate.statistics.summary import measured

    both = (measured(_by_seed(title, runs), sets[title], names, DEFAULTS) for title in (YOURS, WRITTEN))
    return agreement(*both)


def _by_seed(title: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [{**row, "system": run.recipe, "seed": run.seed} for run in runs for row in run.rows[title]]


def _in_words(run: Run) -> str:
    fates = [f"{v['part']} {'taken into use' if v['accepted'] else 'turned down'}" for v in run.verdicts]
    said = ", ".join([*fates, *run.skipped]) or "nothing tuned"
    return f"{run.recipe}, seed {run.seed}: {said}; {run.seconds:.0f} s"


def _read_run(path: Path, key: str) -> Run | None:
    """A run that was measured before, if nothing has changed since."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("key") != key:
            return None
        rows = {title: [_with_pairs(row) for row in its] for title, its in kept.pop("rows").items()}
        return Run(rows=rows, **kept)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _with_pairs(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose fractions are tuples again, which JSON does not have."""
    measures = {m: tuple(v) if isinstance(v, list) else v for m, v in row["measures"].items()}
    return {**row, "measures": measures}


def _named(progress: Progress, what: str) -> Progress:
    def told(step: str, done: int, total: int, unit: str) -> None:
        progress(f"{what}: {step}", done, total, unit)

    return told
