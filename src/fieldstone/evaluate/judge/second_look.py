"""A second look at what was answered: grades by a judge and the support of the citations, put into the rows.

A row is a JSON object, one a question and system, as `run` makes it. What a second look finds stands in it as
`correct` (1, 0 or null) and in each citation as `support` (0..1, or null), and in its measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fieldstone.evaluate.judge.fitness import Fitness, in_words
from fieldstone.evaluate.judge.support import Cited, Look, quoted
from fieldstone.evaluate.judge.verdict import Claim, grade
from fieldstone.evaluate.measures.named import Case, values
from fieldstone.evaluate.questions import Question
from fieldstone.library import Library
from fieldstone.models import Generator
from fieldstone.progress import Progress, silent

Row = Mapping[str, Any]


def with_grades(
    rows: Sequence[Row],
    judge: Generator,
    found: Fitness,
    path: Path | None = None,
    progress: Progress = silent,
) -> tuple[list[Row], dict[str, Any]]:
    """The rows with the judge's grades, and what stands beside them in the report.

    An unfit judge grades nothing. Graded are the answers to answerable questions; an abstention from one is
    wrong without a judge. What the judge gave no verdict on is None and counts in no mean.
    """
    told: dict[str, Any] = {**asdict(found), "answers": 0, "answers_unread": 0, "sentence": in_words(found)}
    if not found.fit:
        return list(rows), told
    asked = [i for i, row in enumerate(rows) if row["answers"] and row.get("answer") and not row["abstained"]]
    claims = [Claim(rows[i]["question"], rows[i]["answer"], tuple(rows[i]["answers"])) for i in asked]
    right = dict(zip(asked, (g.right for g in grade(judge, claims, path, progress=progress)), strict=True))
    graded = []
    for i, row in enumerate(rows):
        refused = bool(row["answers"] and row.get("abstained"))
        verdict = right.get(i, False if refused else None)
        graded.append(
            {**row, "correct": None if verdict is None else float(verdict)} if "answer" in row else row
        )
    unread = sum(verdict is None for verdict in right.values())
    told |= {"answers": len(asked), "answers_unread": unread}
    if unread:
        told["sentence"] += (
            f" {unread} of the {len(asked)} verdicts here could not be read and count nowhere."
        )
    return [_measured(row, "correctness") for row in graded], told


def with_support(
    rows: Sequence[Row], library: Library, look: Look, path: Path | None = None, progress: Progress = silent
) -> list[Row]:
    """The rows with the support of each citation.

    A quote that does not stand in its passage supports nothing, and so does a passage that is gone. An answer
    with a citation that got no verdict counts in no mean.
    """
    passages = {p.id: p for p in library.passages(sorted({c["passage"] for _, _, c in _citations(rows)}))}
    texts = library.passage_texts(passages.values())
    sound = [
        (i, k, Cited(rows[i]["question"], rows[i]["answer"], texts[c["passage"]]))
        for i, k, c in _citations(rows)
        if c["passage"] in texts and c["verified"] and quoted(c["quote"], passages[c["passage"]].text)
    ]
    given = look([cited for *_, cited in sound], path, progress)
    found = {(i, k): support for (i, k, _), support in zip(sound, given, strict=True)}
    looked = []
    for i, row in enumerate(rows):
        if "citations" in row:
            its = [{**c, "support": found.get((i, k), 0.0)} for k, c in enumerate(row["citations"])]
            row = _measured({**row, "citations": its}, "citation-support", "faithfulness")
        looked.append(row)
    return looked


def in_words_of_support(rows: Sequence[Row]) -> str:
    """What must be said of verdicts on citations that could not be read; nothing if all could."""
    given = [
        citation["support"] for row in rows for citation in row.get("citations", ()) if "support" in citation
    ]
    unread = given.count(None)
    return f"{unread} of the {len(given)} verdicts on citations could not be read" if unread else ""


def _citations(rows: Sequence[Row]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Each citation of an answer, with the places of row and citation."""
    for i, row in enumerate(rows):
        if not row.get("abstained"):
            yield from ((i, k, citation) for k, citation in enumerate(row.get("citations", ())))


def _measured(row: Row, *names: str) -> Row:
    """The row with these measures of what was found at the second look."""
    if "answer" not in row:
        return row
    support = [c.get("support", 0.0) for c in row["citations"]]
    case = Case(
        Question(row["id"], row["question"], tuple(row["answers"]), row["source"]),
        answer=row["answer"],
        abstained=row["abstained"],
        cited=tuple(c["passage"] for c in row["citations"]),
        support=None if None in support else tuple(support),
        correct=row.get("correct"),
    )
    return {**row, "measures": {**row["measures"], **dict.fromkeys(names), **values(case, names)}}
