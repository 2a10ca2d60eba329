"""MMLU (Hendrycks et al. 2021): multiple choice, as its CSV files have it or as JSON Lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.benchmarks.benchmark import LETTERS, Benchmark, Choice, needed, noted
from fieldstone.evaluate.questions import Question, json_values, read_text

SHOTS = 5
"""Examples shown before a question, where there are so many."""

_SPLIT = re.compile(r"[-_.]?(test|dev|val|auxiliary_train)$")


def read_mmlu(path: Path) -> Benchmark:
    """The test questions of a file or of all files of a folder, with the examples of their dev files.

    `abstract_algebra_dev.csv`, or a file of that subject in a folder `dev`, holds the examples of
    `abstract_algebra_test.csv`. A line is question, options, letter; or {question, choices, answer} with a
    letter or a place, and perhaps `id` and `subject`.
    """
    problems: list[str] = []
    files = _files(needed(path, "give a file or folder of MMLU"))
    tests = [file for file in files if _split_of(file) == "test"]
    if not tests:
        raise QuestionsError(f"{path} holds no test questions of MMLU: no *_test.csv and no .jsonl")
    beside = [] if path.is_dir() else _beside(path)
    shots: dict[str, tuple[Choice, ...]] = {}
    for file in [file for file in (*files, *beside) if _split_of(file) == "dev"]:
        for subject, _, choice in _choices(file, problems):
            shots[subject] = (*shots.get(subject, ()), choice)
    choices: dict[str, Choice] = {}
    questions = []
    for file in tests:
        for subject, id_, choice in _choices(file, problems):
            if id_ in choices:
                problems.append(f"{file.name}: the id {id_!r} stands there twice")
                continue
            choices[id_] = choice
            questions.append(Question(id_, choice.question, (choice.letter,), subject))
    shown = {subject: its[:SHOTS] for subject, its in shots.items()}
    return Benchmark(tuple(questions), choices=choices, shots=shown, notes=noted(problems))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".csv", ".jsonl"))


def _beside(path: Path) -> list[Path]:
    """The dev file that belongs to a single test file."""
    stem, other = _SPLIT.sub("", path.stem), path.parent.parent / "dev"
    named = [
        path.with_name(f"{stem}_dev{path.suffix}"),
        other / f"{stem}_dev{path.suffix}",
        other / path.name,
    ]
    return [file for file in named if file.is_file() and file != path][:1]


def _split_of(file: Path) -> str:
    match = _SPLIT.search(file.stem)
    if match:
        return match[1]
    return file.parent.name if file.parent.name in ("dev", "val", "auxiliary_train") else "test"


def _subject_of(file: Path) -> str:
    return _SPLIT.sub("", file.stem).removeprefix("mmlu_")


def _choices(file: Path, problems: list[str]) -> Iterator[tuple[str, str, Choice]]:
    """(subject, id, choice) of each line that can be read."""
    subject = _subject_of(file)
    rows = _from_csv(file) if file.suffix == ".csv" else json_values(file)
    for number, (place, entry) in enumerate(rows):
        try:
            if isinstance(entry, ValueError):
                raise entry
            if not isinstance(entry, dict):
                raise ValueError(f"this is no JSON object: {entry!r:.60}")
            choice = _choice(entry.get("question"), entry.get("choices"), entry.get("answer"))
        except ValueError as error:
            problems.append(f"{file.name}, {place}: {error}")
            continue
        its = entry.get("subject")
        its = its if isinstance(its, str) and its else subject
        id_ = entry.get("id")
        yield its, str(id_) if isinstance(id_, str | int) else f"{its}-{_split_of(file)}-{number}", choice


def _from_csv(file: Path) -> Iterator[tuple[str, object]]:
    rows = csv.reader(io.StringIO(read_text(file), newline=""))
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"row {number}", ValueError(str(error))
            continue
        if row and not (number == 1 and row[-1].strip().casefold() == "answer"):
            yield f"row {number}", {"question": row[0], "choices": row[1:-1], "answer": row[-1].strip()}


def _choice(question: object, options: object, answer: object) -> Choice:
    if not isinstance(question, str) or not question.strip():
        raise ValueError('"question" is missing or empty')
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f'"choices" must be a list of 2 to {len(LETTERS)} options, not {options!r:.60}')
    place = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(options):
        raise ValueError(f'"answer" must be a letter or place of one of the options, not {answer!r:.60}')
    return Choice(question.strip(), tuple(str(option).strip() for option in options), place)
