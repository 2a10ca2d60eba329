"""Examples on disk: questions with answers as JSON Lines that a person can read and mend."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fieldstone.atomic import write_text
from fieldstone.errors import QuestionsError
from fieldstone.records import Example

SPLITS = ("train", "dev", "test")

Ratings = Mapping[str, Sequence[float | None]]
"""Of `passages` and of `questions`, from 0 to 10; None where the reply was no number."""


def read_examples(path: Path) -> list[Example]:
    """The examples of a file, in order; none where there is no file. Raises QuestionsError."""
    if not path.exists():
        return []
    adapter = TypeAdapter(Example)
    examples = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            examples.append(adapter.validate_json(line))
        except ValidationError as error:
            what = error.errors()[0]
            raise QuestionsError(
                f"{path}, line {number}: {what['msg']}; mend the line, or delete the file and type: "
                f"fieldstone synthesize {path.parent.parent}"
            ) from None
    return examples


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, all of them or none."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples in the place of those the file held."""
    write_lines(path, (asdict(example) for example in examples))


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that grows; what a kill left half written at its end is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def rating_histograms(ratings: Iterable[Ratings]) -> dict[str, dict[str, int]]:
    """What was rated -> rating, from the lowest, `unread` last -> how often it was given."""
    counts: dict[str, Counter[float | None]] = defaultdict(Counter)
    for its in ratings:
        for what, given in its.items():
            counts[what].update(given)
    return {
        what: {
            "unread" if rating is None else f"{rating:g}": count
            for rating, count in sorted(its.items(), key=lambda item: (item[0] is None, item[0] or 0.0))
        }
        for what, its in counts.items()
    }
