"""A sheet of answers for people to grade: which ones, the page that shows them, the key to who wrote what.

The page is one HTML file that opens from a disk, asks for nothing from outside and names no system. The key
stays with whoever made the page: it says which system gave which answer, and `grading` needs it to read the
grades.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fieldstone.atomic import write_text
from fieldstone.errors import GradesError
from fieldstone.evaluate.grading.page import pieces, place_of, render_page
from fieldstone.library import Library
from fieldstone.records import Passage, fingerprint

Row = Mapping[str, Any]

CRITERIA = {
    "correct": ("Is it right?", "Which is more correct?"),
    "helpful": ("Does it tell the asker what they want to know?", "Which helps the asker more?"),
    "supported": ("Does the cited passage say so?", "Which is better supported by what it cites?"),
    "harmless": ("Can one act on it without harm?", "Which does less harm if one acts on it?"),
}
"""What is graded: name -> the question about one answer, the question about two."""

LEVELS = (0, 1, 2)
"""Grades of one answer: no, partly, yes."""

SIDES = (-1, 0, 1)
"""Grades of two answers: the first is better, a tie, the second is better."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is graded at a time: one answer's row of a report, or the two of two systems, in either order."""

    id: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """All that one page puts to its graders; `alike` are pairs of the same words and quotes: not shown."""

    id: str
    systems: tuple[str, ...]
    items: tuple[Item, ...]
    alike: tuple[Item, ...] = ()

    @property
    def pairs(self) -> bool:
        """Two answers are compared side by side."""
        return any(len(item.rows) > 1 for item in (*self.items, *self.alike))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a report that hold an answer: of `rows.jsonl`, or of the newest report of a workspace.

    Raises GradesError.
    """
    file = _rows_file(path)
    rows = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            if "answer" in row:
                rows.append(_checked(row, number))
    except OSError as error:
        raise GradesError(
            f"{file} cannot be read: {error.strerror}; name a report or its rows.jsonl"
        ) from None
    except (ValueError, RecursionError) as error:
        raise GradesError(f"{file} holds no rows of a report: {error}; evaluate again") from None
    if not rows:
        raise GradesError(f"{file} holds no answers, only searches; evaluate a system that answers")
    return rows


def workspace_of(path: Path) -> Path | None:
    """The workspace that a report lies in; None where it lies elsewhere."""
    return next(
        (place for place in (path, *path.resolve().parents) if (place / "library.db").is_file()), None
    )


def make_sheet(
    rows: Sequence[Row],
    systems: Sequence[str] = (),
    limit: int = 0,
    seed: int = 0,
    *,
    each: bool = False,
) -> Sheet:
    """A sheet of `limit` questions (0: all), drawn by chance.

    Of two `systems` (none: all that there are) the answers to one question are compared, unless `each` is to
    be graded by itself; with one or more than two, each is. Of a system that ran several times the first run
    counts. Raises GradesError.
    """
    there = list(dict.fromkeys(str(row["system"]) for row in rows))
    if unknown := [name for name in systems if name not in there]:
        raise GradesError(f"no answers of {unknown[0]!r}; the systems that answer are: {', '.join(there)}")
    chosen = tuple(dict.fromkeys(systems)) or tuple(there)
    by_question: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["system"] in chosen:
            its = by_question.setdefault((str(row.get("set", "")), str(row["id"])), {})
            its.setdefault(row["system"], row)
    asked = [its for its in by_question.values() if len(its) == len(chosen)]
    if not asked:
        raise GradesError(f"no question was asked of all of: {', '.join(chosen)}; name fewer with --systems")
    if 0 < limit < len(asked):
        asked = random.Random(seed).sample(asked, limit)
    if len(chosen) == 2 and not each:
        found = [_pair(its, chosen, seed) for its in asked]
        alike = tuple(item for item in found if _same(*item.rows))
        items = tuple(item for item in found if not _same(*item.rows))
    else:
        items = tuple(Item(_id(seed, row), (row,)) for its in asked for row in its.values())
        alike = ()
    content = json.dumps([[item.id, *item.rows] for item in (*items, *alike)], sort_keys=True)
    return Sheet(fingerprint(chosen, content), chosen, items, alike)


def write_key(path: Path, sheet: Sheet) -> None:
    """Keep the key. Raises GradesError where another sheet's lies there: its grades would be lost."""
    if path.exists() and _sheet_id(path) != sheet.id:
        raise GradesError(f"{path} is the key of other answers, and their grades need it; name another page")
    write_text(path, json.dumps({"fieldstone": "grading key", **asdict(sheet)}, ensure_ascii=False) + "\n")


def read_key(path: Path) -> Sheet:
    """The sheet whose key this is. Raises GradesError."""
    try:
        kept = json.loads(path.read_bytes())
        if kept.pop("fieldstone") != "grading key":
            raise ValueError("it is something else")
        sheet = TypeAdapter(Sheet).validate_python(kept)
        rows = tuple(row for item in (*sheet.items, *sheet.alike) for row in item.rows)
        for row in rows:
            _checked(row, 1)
    except OSError as error:
        raise GradesError(f"{path} cannot be read: {error.strerror}; name the key beside the page") from None
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        raise GradesError(
            f"{path} is no key of a grading page; name the file ….key.json that was written beside the page"
        ) from None
    return sheet


def render_sheet(sheet: Sheet, library: Library | None = None) -> str:
    """The page. Cited passages are looked up in the library; without it only what was quoted is shown."""
    passages, sources = _cited(sheet, library)
    which = 1 if sheet.pairs else 0
    content = {
        "id": sheet.id,
        "pairs": sheet.pairs,
        "criteria": [[name, questions[which]] for name, questions in CRITERIA.items()],
        "items": [
            {
                "id": item.id,
                "question": item.rows[0]["question"],
                "expected": list(item.rows[0]["answers"]),
                "answers": [_shown(row, passages, sources) for row in item.rows],
            }
            for item in sheet.items
        ],
    }
    return render_page(_asset("sheet.html"), _asset("sheet.css"), _asset("sheet.js"), content)


def _rows_file(path: Path) -> Path:
    if (path / "library.db").is_file():
        reports = sorted((path / "reports").glob("*/rows.jsonl"), reverse=True)
        answered = next((file for file in reports if '"answer":' in file.read_text(encoding="utf-8")), None)
        if answered is None:
            raise GradesError(f"{path} has no report with answers; type: fieldstone evaluate {path} …")
        return answered
    if path.is_dir():
        return path / "rows.jsonl"
    return path.with_name("rows.jsonl") if path.name in ("report.json", "report.html") else path


def _checked(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The row, if it has all that is shown. Raises ValueError."""
    kinds = {"system": str, "id": str, "question": str, "answers": list, "answer": str, "abstained": bool}
    wrong = [name for name, kind in kinds.items() if not isinstance(row.get(name), kind)]
    cited = row.get("citations", [])
    if not isinstance(cited, list) or not all(isinstance(c, dict) and "passage" in c for c in cited):
        wrong.append("citations")
    if wrong:
        raise ValueError(f"{wrong[0]!r} is missing or wrong in line {number}")
    return dict(row)


def _pair(its: Mapping[str, Row], systems: Sequence[str], seed: int) -> Item:
    """The two rows in an order that is drawn anew for each question, so that a place tells nothing."""
    rows = tuple(its[name] for name in systems)
    turned = int(fingerprint("side", seed, rows[0].get("set", ""), rows[0]["id"]), 16) % 2
    return Item(_id(seed, *rows), rows[::-1] if turned else rows)


def _id(seed: int, *rows: Row) -> str:
    return fingerprint(
        "item", seed, *(part for r in rows for part in (r.get("set", ""), r["id"], r["system"]))
    )


def _same(a: Row, b: Row) -> bool:
    """The graders would see the same twice."""
    return all(a.get(name) == b.get(name) for name in ("answer", "abstained", "citations"))


def _cited(sheet: Sheet, library: Library | None) -> tuple[dict[str, Passage], Mapping[str, tuple[str, str]]]:
    if library is None:
        return {}, {}
    cited = {c["passage"] for item in sheet.items for row in item.rows for c in row.get("citations", ())}
    passages = {p.id: p for p in library.passages(sorted(cited))}
    return passages, library.sources({p.document_id for p in passages.values()})


def _shown(
    row: Row, passages: Mapping[str, Passage], sources: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """An answer as the page has it: its words, and for each citation where it is from and what stands there.

    `pieces` are [text, is it the quote]; no piece is the quote where the passage does not hold it.
    """
    cited: list[dict[str, Any]] = []
    for citation in row.get("citations", ()):
        quote, passage = str(citation.get("quote", "")), passages.get(citation["passage"])
        if passage is None:
            cited.append({"place": "", "quote": quote, "pieces": []})
            continue
        place = place_of(sources[passage.document_id][0], passage)
        cited.append({"place": place, "quote": quote, "pieces": pieces(quote, passage.text)})
    return {"text": row["answer"], "abstained": row["abstained"], "cited": cited}


def _sheet_id(path: Path) -> str:
    try:
        return read_key(path).id
    except GradesError:
        return ""


def _asset(name: str) -> str:
    return (files("fieldstone.evaluate.grading") / name).read_text(encoding="utf-8")
