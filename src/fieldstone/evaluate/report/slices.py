"""How good a system is on parts of the questions: by document, by kind, by length.

Each part has its own 95 % interval. With many parts some fall out high or low by chance alone: a slice says
where to look, not what is so. A part of fewer than `FEWEST` questions is named, and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldstone.evaluate.evidence import WORD
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.measures.lost import answering, tells
from fieldstone.evaluate.statistics.bootstrap import FEWEST, Estimate, Value, bootstrap_mean
from fieldstone.evaluate.statistics.seeds import total

Row = Mapping[str, Any]

SCORE = "answer score"
"""F1 of an answer; of a question that the documents do not answer, 1 for a refusal and else 0."""

SEARCH_SCORE = "recall@5"
"""What is looked at where no system answers."""

ASKS = re.compile(r"\b(how many|how much|how|who|whom|whose|what|which|when|where|why)\b", re.IGNORECASE)

SAME_WORD = {
    "how many": "how many, how much",
    "how much": "how many, how much",
    "whom": "who",
    "whose": "who",
}


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the questions: their number, and each system's mean on them; no mean where they are too few."""

    name: str
    n: int
    systems: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Slices:
    """The parts of the questions, by what divides them; `measure` is what the means are of."""

    measure: str
    overall: Mapping[str, Estimate]
    by: Mapping[str, tuple[Slice, ...]]


def slices(rows: Sequence[Row]) -> Slices | None:
    """The parts of these rows of one or several systems; None without a row to judge.

    Of a system that ran several times, a question's value is the mean of its rows. Where some systems answer,
    those that only search are left out.
    """
    systems = answering(rows)
    measure = SCORE if systems else SEARCH_SCORE
    scored: dict[str, dict[str, list[Value]]] = {}
    questions: dict[str, Row] = {}
    for row in rows:
        if (value := _score(row, measure)) is not None:
            scored.setdefault(row["system"], {}).setdefault(row["id"], []).append(value)
            questions[row["id"]] = row
    if not scored:
        return None
    by = {}
    for name, divide in DIVISIONS.items():
        parts = divide(list(questions.values()))
        if len(parts) > 1:
            by[name] = tuple(_slice(part, its, scored) for part, its in parts.items())
    overall = _slice("", list(questions.values()), scored).systems
    return Slices(measure, overall, by)


def answer_score(row: Row) -> float:
    """`SCORE` of a row of a system that answers."""
    if not row["answers"]:
        return float(row["abstained"])
    return 0.0 if row["abstained"] else token_f1(row["answer"], row["answers"])


def _score(row: Row, measure: str) -> Value:
    if measure == SCORE:
        return answer_score(row) if "abstained" in row and tells(row) else None
    value: Value = row.get("measures", {}).get(measure)
    return value


def _slice(name: str, questions: Sequence[Row], scored: Mapping[str, Mapping[str, Sequence[Value]]]) -> Slice:
    clusters = [row.get("source") or row["id"] for row in questions]
    found = {}
    for system, values in scored.items() if len(questions) >= FEWEST else ():
        estimate = bootstrap_mean([total(values.get(row["id"], ())) for row in questions], clusters)
        if estimate is not None:
            found[system] = estimate
    return Slice(name, len(questions), found)


def _by_document(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Those with most questions first."""
    parts = _divided(rows, lambda row: row.get("source", ""))
    return dict(sorted(parts.items(), key=lambda part: (-len(part[1]), part[0])))


def _by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Answerable or not, and of which kind where one is named."""
    return _divided(rows, lambda row: ", ".join(_kind(row)))


def _kind(row: Row) -> Iterator[str]:
    yield "answerable" if row["answers"] else "unanswerable"
    if row.get("kind"):
        yield row["kind"]


def _by_asking(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """By the first English question word; nothing where most questions have none."""
    parts = _divided(rows, lambda row: _asks(row["question"]))
    none = len(parts.pop("", ()))
    if 2 * none > len(rows):
        return {}
    return dict(sorted(parts.items(), key=lambda part: -len(part[1])))


def _asks(question: str) -> str:
    match = ASKS.search(question)
    word = match[0].lower() if match else ""
    return SAME_WORD.get(word, word)


def _by_question_length(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return _by_length(rows, [words(row["question"]) for row in rows])


def _by_answer_length(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """By the shortest of the right answers."""
    answered = [row for row in rows if row["answers"]]
    return _by_length(answered, [min(map(words, row["answers"])) for row in answered])


def words(text: str) -> int:
    """Words; where a character writes a word or a syllable, characters."""
    return len(WORD.findall(text))


def _by_length(rows: Sequence[Row], lengths: Sequence[int]) -> dict[str, list[Row]]:
    """Thirds, as far as equal lengths allow, named by their bounds."""
    if not rows:
        return {}
    ordered = sorted(lengths)
    bounds = sorted({ordered[(len(ordered) - 1) // 3], ordered[2 * (len(ordered) - 1) // 3], ordered[-1]})
    parts: dict[str, list[Row]] = {}
    least = ordered[0]
    for bound in bounds:
        reach = str(bound) if least == bound else f"{least} to {bound}"
        name = f"{reach} word{'' if reach == '1' else 's'}"
        parts[name] = [row for row, its in zip(rows, lengths, strict=True) if least <= its <= bound]
        least = bound + 1
    return parts


def _divided(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(key(row), []).append(row)
    return parts


DIVISIONS: Mapping[str, Callable[[Sequence[Row]], dict[str, list[Row]]]] = {
    "document": _by_document,
    "kind": _by_kind,
    "question word": _by_asking,
    "length of the question": _by_question_length,
    "length of the right answer": _by_answer_length,
}
