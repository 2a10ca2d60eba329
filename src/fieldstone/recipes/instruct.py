"""The step `instruct` and what later steps take from it: the first stage of SimRAG (Xu et al. 2024).

The model that it leaves in `models/instructed/` is no candidate for use: it writes the questions, and it is
what the generator is tuned from. It serves so only where it beats the untuned one on texts held out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone import gate
from fieldstone.atomic import write_json
from fieldstone.errors import QuestionsError, WorkspaceError
from fieldstone.records import fingerprint, with_context

if TYPE_CHECKING:
    from fieldstone.evaluate.statistics.bootstrap import Value
    from fieldstone.models import Generator
    from fieldstone.recipes.build import Build
    from fieldstone.tune.generator import Row
    from fieldstone.tune.generator.instruct import Task

JUDGED = 96
"""Held-out rows that decide, at most: each is written by two models."""

CHECKED = 32
"""Further held-out rows that choose between checkpoints."""

REPLY_TOKENS = 48

SHOWN = 3
"""So many damaged entries are named in full."""

MISSING = (
    "instruct.files names no file, so the untuned model writes the questions; with a file of instructions or "
    """in the form of SQuAD: --set 'instruct.files=["squad.json"]'"""
)


def instruct(build: Build) -> dict[str, Any]:
    """A generator that has learnt to answer, to name answers and to ask, from data that is not the user's."""
    settings = build.settings
    base, how = settings.models.generator, settings.instruct
    if not how.files:
        return {"skipped": MISSING}
    if base.startswith(("http://", "https://")):
        return {"skipped": f"{base} is a model server, whose weights cannot be tuned from here"}
    files = [fingerprint(Path(name).expanduser().read_bytes()) for name in _found(how.files)]
    id_ = fingerprint(
        "instructed", base, settings.generator, how.rows, how.held_out, settings.seed, *files
    )  # fmt: skip
    folder = build.workspace.path / "models" / "instructed" / id_
    if (kept := _kept(folder)) and not (build.force and not kept["used"]):
        return kept

    from fieldstone.recipes.dev import lesson_score
    from fieldstone.tune.generator import tune_generator as tune
    from fieldstone.tune.generator.instruct import draw
    from fieldstone.tune.together import everywhere

    learnt, held, problems = general_tasks(build)
    rows = draw(learnt, how.rows, settings.seed)
    if len(rows) < 2 or not held:
        few = f"{len(learnt)} rows to learn and {len(held)} to judge by are too few"
        return {"skipped": f"{few}; name more in instruct.files"}
    drawn = draw(held, JUDGED + CHECKED, settings.seed)
    several = settings.generator.epochs * settings.generator.checks > 1
    checked = [task.row for task in drawn[JUDGED:]] if several else []
    build.__dict__.pop("generator", None)  # one copy of the weights less while tuning
    models = settings.models
    tuned = everywhere(
        tune, base, [task.row for task in rows], folder, settings.generator,
        dev_score=lesson_score(checked, REPLY_TOKENS), seed=settings.seed, device=models.device,
        threads=models.threads or None, progress=build.progress,
    )  # fmt: skip
    name, judged = f"models/instructed/{id_}", drawn[:JUDGED]
    theirs = _scores(build.generator, judged, build)
    ours = _scores(build.load_generator(str(folder)), judged, build)
    verdict = gate.judge(
        "generator", name, base, "token F1 on general texts held out", ours, theirs,
        [task.work for task in judged], finer=[task.text for task in judged],
        force=build.force, seed=settings.seed,
    )  # fmt: skip
    said = {
        "model": name, "base": base, "used": verdict.accepted, "judged": gate.as_json(verdict),
        "rows": tuned.rows, "tasks": dict(Counter(task.kind for task in rows)), "steps": tuned.steps,
        "tuning seconds": round(tuned.seconds, 1), "notes": [*problems, _note(verdict)],
    }  # fmt: skip
    write_json(folder / "verdict.json", said)
    return said


def instructed(build: Build) -> str | None:
    """The folder of the model that `instruct` left and found to be better; None where there is none.

    Raises WorkspaceError when the folder is gone.
    """
    said = _said(build)
    if not said or not said["used"]:
        return None
    folder = build.workspace.path.resolve() / str(said["model"])
    if not folder.is_dir():
        raise WorkspaceError(
            f"the model that instruct.files taught is gone: there is no folder {folder}; put it back, or "
            f"make it anew: type fieldstone build FOLDER --into {build.workspace.path}"
        )
    return str(folder)


def asking(build: Build) -> tuple[str, Generator]:
    """The generator that writes the questions, and what it is called wherever the workspace lies."""
    folder, base = instructed(build), build.settings.models.generator
    if folder is None:
        return build.settings.models.writer or base, build.writer
    return f"models/instructed/{Path(folder).name}", build.load_generator(folder)


def instruct_mark(build: Build) -> list[object]:
    """Stands for what a generator that is tuned later takes from this step: nothing where it did not run."""
    said, how = _said(build), build.settings.instruct
    names = [Path(name).name for name in how.files]
    return [said["model"], said["used"], how.share, names] if said else []


def general_rows(build: Build, own: int) -> list[Row]:
    """Rows of the general data to learn beside `own` of the documents, as `instruct.share` has it."""
    from fieldstone.tune.generator.instruct import draw

    share = build.settings.instruct.share
    most = round(own * share / (1 - share)) if _said(build) else 0
    return [task.row for task in draw(general_tasks(build)[0], most, build.settings.seed)] if most else []


def general_tasks(build: Build) -> tuple[list[Task], list[Task], list[str]]:
    """The rows of all files to learn and those held out, and what is to be said of the files.

    Raises QuestionsError where a file cannot be read, or questions with their texts are damaged.
    """
    from fieldstone.tune.generator.instruct import hold_out, read_instructions

    tasks: list[Task] = []
    problems: list[str] = []
    for path in _found(build.settings.instruct.files):
        if _asks(path):
            tasks += _comprehension(path)
        else:
            its, wrong = read_instructions(path)
            tasks += its
            problems += wrong
            if not its:
                raise QuestionsError(f"{path} holds nothing to learn; {next(iter(wrong), 'it is empty')}")
    notes = problems[:SHOWN]
    if more := len(problems) - len(notes):
        notes.append(f"and {more:,} more entries left out")
    return *hold_out(tasks, build.settings.instruct.held_out, build.settings.seed), notes


def _comprehension(path: Path) -> list[Task]:
    """The tasks of a file of questions with texts beside them; those without an answer are left out."""
    from fieldstone.evaluate.questions import read_questions
    from fieldstone.tune.generator.instruct import Comprehension, comprehension_tasks

    def text(source: str, evidence: str) -> str:  # as a passage is read, under its title
        return with_context(evidence, Path(source).stem.replace("_", " "), ())

    return comprehension_tasks(
        Comprehension(text(q.source, q.evidence), q.question, q.answers[0], q.source)
        for q in read_questions(path)
        if q.answerable and q.evidence.strip()
    )


def _found(names: Sequence[str]) -> list[Path]:
    """The files, all of them there. Raises QuestionsError."""
    paths = [Path(name).expanduser() for name in names]
    for path in paths:
        if not path.is_file():
            raise QuestionsError(
                f"instruct.files: there is no file {path}; name it by its whole path, or leave it out"
            )
    return paths


def _asks(path: Path) -> bool:
    """Whether the file holds questions, as SQuAD has them or `--questions`, rather than instructions."""
    text = path.read_bytes().decode("utf-8", errors="replace").lstrip("\ufeff \n\r\t")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "data" in whole:
        return True
    entries = whole if isinstance(whole, list) else text.split("\n")
    for entry in entries:  # the first that is whole tells
        try:
            first = json.loads(entry) if isinstance(entry, str) else entry
        except (ValueError, RecursionError):
            continue
        if isinstance(first, dict):
            return "question" in first and "answers" in first
    return False


def _scores(generator: Generator, tasks: Sequence[Task], build: Build) -> list[Value]:
    """Token F1 of what the generator writes for each row against what stands there."""
    from fieldstone.evaluate.measures.answering import token_f1

    values: list[Value] = []
    for start in range(0, len(tasks), 16):
        build.progress("judge instructed", start, len(tasks), "rows")
        rows = [task.row for task in tasks[start : start + 16]]
        replies = generator.generate([r.prompt for r in rows], max_tokens=REPLY_TOKENS, stop=("\n",))
        values += [token_f1(reply.text, [r.completion]) for reply, r in zip(replies, rows, strict=True)]
    build.progress("judge instructed", len(tasks), len(tasks), "rows")
    return values


def _said(build: Build) -> dict[str, Any] | None:
    """What the step said when it last ran with this base; None where it did not, or has no files."""
    if not build.settings.instruct.files:
        return None
    lines = [line for line in build.workspace.read_journal() if line.get("step") == "instruct"]
    said = dict(build.made.get("instruct") or (lines[-1] if lines else {}))
    return said if said.get("base") == build.settings.models.generator else None


def _kept(folder: Path) -> dict[str, Any] | None:
    """What was found of the same model before."""
    try:
        kept: dict[str, Any] = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept


def _note(verdict: gate.Verdict) -> str:
    """The verdict in one line."""
    why = verdict.reason.partition(": ")[2]
    if verdict.accepted:
        return f"the instructed model asks, and is tuned further: {why}"
    return f"the untuned model stays: of the instructed one, {why}"
