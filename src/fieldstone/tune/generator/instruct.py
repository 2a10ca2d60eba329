"""What a generator learns before it sees the documents: SimRAG's first stage (Xu et al. 2024, section 3.1).

General data becomes rows of four tasks: follow an instruction, answer from a text, name what could be asked
for in a text, and ask for one answer of it. The prompts are those of answering and of the simrag way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fieldstone.models import Prompt
from fieldstone.prompts import (
    ask_for_prompt,
    instruction_prompt,
    name_answers_prompt,
    named_answers,
    one_by_one_prompt,
)
from fieldstone.quotes import find_words
from fieldstone.records import fingerprint
from fieldstone.tune.generator import Row

Kind = Literal["instruction", "answer", "name", "ask"]

NAMED = 8
"""Answers that a text is to be answered with, at most: as many as may be listed in a line."""

FORMS = (
    '{"instruction": "…", "input": "", "output": "…"}',
    '{"instruction": "…", "context": "", "response": "…"}',
    '{"prompt": "…", "completion": "…"}',
)


@dataclass(frozen=True, slots=True)
class Task:
    """A row to learn, the text that it is about, and the work (article, file) that the text is from."""

    kind: Kind
    row: Row
    text: str
    work: str


@dataclass(frozen=True, slots=True)
class Comprehension:
    """A question about a text that stands beside it; `work` is the article that the text is from."""

    text: str
    question: str
    answer: str
    work: str


def read_instructions(path: Path) -> tuple[list[Task], list[str]]:
    """The instructions of a file, and a line about each entry that is none; those are left out.

    JSON Lines, or one JSON list, in the forms of Alpaca, of Dolly, or as prompt and completion, which are
    taken as they stand. Replies are put on one line, where a completion ends. Raises OSError.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    tasks, problems = [], []
    for place, entry in _entries(text):
        try:
            row = _instruction(json.loads(entry) if isinstance(entry, str) else entry)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}, {place}: {error}")
            continue
        tasks.append(Task("instruction", row, fingerprint(row.prompt), f"{path.name} {place}"))
    return tasks, problems


def comprehension_tasks(items: Iterable[Comprehension]) -> list[Task]:
    """SimRAG's three tasks: answer each question, ask each from its answer, name the answers of each text."""
    by_text: dict[tuple[str, str], list[Comprehension]] = {}
    for item in items:
        by_text.setdefault((item.work, item.text), []).append(item)
    tasks = []
    for (work, text), its in by_text.items():
        for item in its:
            question, answer = _line(item.question), _line(item.answer)
            tasks.append(Task("answer", Row(one_by_one_prompt(text, question), f" {answer}"), text, work))
            tasks.append(Task("ask", Row(ask_for_prompt(text, answer), f" {question}"), text, work))
        named = _in_order([_line(item.answer) for item in its], text)
        if len(named) > 1:
            tasks.append(Task("name", Row(name_answers_prompt(text), named_answers(named)), text, work))
    return tasks


def hold_out(tasks: Sequence[Task], share: float, seed: int) -> tuple[list[Task], list[Task]]:
    """What to learn and what to judge by, no text in both. By fingerprint, so that more data moves none."""
    learnt: list[Task] = []
    held: list[Task] = []
    for task in tasks:
        place = int(fingerprint("held out", seed, task.text), 16) / 2**64
        (held if place < share else learnt).append(task)
    return learnt, held


def draw(tasks: Sequence[Task], most: int, seed: int) -> list[Task]:
    """At most so many by chance, of each kind the same number for as long as there are any."""
    turns: Counter[str] = Counter()
    places = []
    for task in sorted(tasks, key=lambda t: fingerprint("draw", seed, t.row)):
        turns[task.kind] += 1
        places.append((turns[task.kind], task))
    return [task for _, task in sorted(places, key=lambda placed: placed[0])][:most]


def _entries(text: str) -> list[tuple[str, Any]]:
    """Each entry's place in the file, and its JSON as text or as parsed."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list):
        return [(f"entry {number}", entry) for number, entry in enumerate(whole, 1)]
    lines = enumerate(text.split("\n"), 1)  # JSON text may hold other line separators
    return [(f"line {number}", line) for number, line in lines if line.strip()]


def _instruction(entry: object) -> Row:
    """Raises ValueError, which says what is wrong with the entry."""
    if not isinstance(entry, dict):
        raise ValueError(f"this is no JSON object; write it as {FORMS[0]}")
    if "prompt" in entry:
        return Row(Prompt(_string(entry, "prompt")), _string(entry, "completion"))
    given, reply = ("context", "response") if "response" in entry else ("input", "output")
    prompt = instruction_prompt(_string(entry, "instruction"), str(entry.get(given) or ""))
    return Row(prompt, f" {_line(_string(entry, reply))}")


def _string(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" is missing or no text; the forms are {" or ".join(FORMS)}')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f'"{name}" holds half of a surrogate pair, which is no character') from None
    return value


def _line(text: str) -> str:
    return " ".join(text.split())


def _in_order(answers: Sequence[str], text: str) -> list[str]:
    """The answers that stand in the text, each once, in its order."""
    places: dict[str, tuple[int, str]] = {}
    for answer in answers:
        spans = find_words(answer, text)
        if spans and ";" not in answer:
            places.setdefault(answer.casefold(), (spans[0][0], answer))
    return [answer for _, answer in sorted(places.values())][:NAMED]
