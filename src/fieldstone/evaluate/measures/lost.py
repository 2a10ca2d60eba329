"""Where questions were lost: the first stage at which a system let go of the right answer.

A row is what an evaluation keeps of one question put to one answering system: `answers`, `relevant`,
`hits`, `abstained`, `answer`, `citations`, `measures`. `hits` and `citations` are None where nobody knows
them, as of another system's answers; then no question is lost there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fieldstone.evaluate.measures.answering import token_f1

Row = Mapping[str, Any]

RIGHT, REFUSED_RIGHTLY = "right", "refused rightly"
GOOD = frozenset({RIGHT, REFUSED_RIGHTLY})

ANSWERABLE = (RIGHT, "misread", "cited elsewhere", "refused", "ranked low", "not found")
"""What can become of a question that the documents answer: from the end of the way back to its start."""

UNANSWERABLE = (REFUSED_RIGHTLY, "answered though nothing stands there")
"""What can become of a question that they do not answer."""

UNKNOWN = "evidence not located"
"""The documents should answer it, but where is not known: no stage can be blamed."""

STAGES = (*ANSWERABLE, *UNANSWERABLE, UNKNOWN)

ENOUGH = 0.5
"""From this F1 on an answer counts as right."""


def tells(row: Row) -> bool:
    """Whether it is known what to answer: not where a passage is relevant, and no answer is given."""
    return bool(row["answers"]) or not row.get("relevant")


def stage(row: Row, read: int) -> str:
    """One of `STAGES`; `read` is the number of passages that the system reads (`answer.passages`)."""
    if not tells(row):
        return UNKNOWN
    if not row["answers"]:
        return UNANSWERABLE[0 if row["abstained"] else 1]
    relevant, hits, citations = set(row["relevant"]), row["hits"], row["citations"]
    if not relevant and (hits is not None or citations is not None):
        return UNKNOWN
    ranked = None if hits is None else [hit["passage"] for hit in hits]
    if ranked is not None and relevant.isdisjoint(ranked):
        return "not found"
    if ranked is not None and relevant.isdisjoint(ranked[:read]):
        return "ranked low"
    if row["abstained"]:
        return "refused"
    if citations is not None and relevant.isdisjoint(citation["passage"] for citation in citations):
        return "cited elsewhere"
    f1 = row["measures"].get("F1")
    right = token_f1(row["answer"], row["answers"]) if f1 is None else f1
    return RIGHT if right >= ENOUGH else "misread"


def answering(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each system that answers; one that only searches has nothing to lose an answer with."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if "abstained" in row:
            found.setdefault(row["system"], []).append(row)
    return found


def lost(rows: Iterable[Row], read: int) -> dict[str, int]:
    """Stage -> questions, for the rows of one system; a stage without any is left out."""
    return _counted(stage(row, read) for row in rows)


def moved(before: Iterable[Row], after: Iterable[Row], read: int) -> dict[str, dict[str, int]]:
    """Stage before -> stage after -> questions, for the questions that both systems were asked."""
    moves = [(stage(a, read), stage(b, read)) for a, b in _paired(before, after)]
    return {
        origin: _counted(end for start, end in moves if start == origin)
        for origin in _counted(start for start, _ in moves)
    }


def changed(before: Iterable[Row], after: Iterable[Row], read: int) -> dict[str, list[dict[str, Any]]]:
    """The questions `won` (lost before, right after) and `lost` (the reverse), in the order of the rows.

    Each is {question, wanted, source, before, after}, the last two {answer, stage, quote}.
    """
    found: dict[str, list[dict[str, Any]]] = {"won": [], "lost": []}
    for a, b in _paired(before, after):
        was, is_ = stage(a, read) in GOOD, stage(b, read) in GOOD
        if was != is_:
            found["won" if is_ else "lost"].append(
                {
                    "question": a["question"],
                    "wanted": list(a["answers"]),
                    "source": a["source"],
                    "before": _said(a, read),
                    "after": _said(b, read),
                }
            )
    return found


def _said(row: Row, read: int) -> dict[str, Any]:
    citations: Sequence[Mapping[str, Any]] = row["citations"] or ()
    return {
        "answer": "" if row["abstained"] else row["answer"],
        "stage": stage(row, read),
        "quote": citations[0]["quote"] if citations else "",
    }


def _paired(before: Iterable[Row], after: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    then = {row["id"]: row for row in before}
    return ((then[row["id"]], row) for row in after if row["id"] in then)


def _counted(stages: Iterable[str]) -> dict[str, int]:
    counts = Counter(stages)
    return {name: counts[name] for name in STAGES if counts[name]}
