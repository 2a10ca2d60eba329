"""The worst answers of a system, with what it read and what it should have read.

An answer that is wrong does more harm than a refusal, and the surer it was the more: such come first, then
right answers with the wrong citation, then refusals although the passage was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fieldstone.evaluate.measures.lost import ENOUGH, GOOD, UNKNOWN, stage, tells
from fieldstone.evaluate.report.slices import answer_score

Row = Mapping[str, Any]

CASES = 6
"""So many of a system are kept with a report."""


def worst(rows: Iterable[Row], read: int) -> list[dict[str, Any]]:
    """The worst cases of one answering system: question, wanted, source, answer, stage, confidence, quote.

    `read` is the passage that the answer cites (where it cites none, the first that was found), `held` one
    that holds the answer: ids, empty where there is none. The argument `read` is as in `lost.stage`.
    """
    bad = [(row, stage(row, read)) for row in rows]
    bad = [(row, at) for row, at in bad if at not in GOOD and not _right(row, at)]
    bad.sort(key=lambda its: _order(its[0]))
    once: dict[str, dict[str, Any]] = {}  # of several runs the worst
    for row, at in bad:
        once.setdefault(row["id"], _case(row, at))
    return list(once.values())[:CASES]


def passages_of(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """The passages that these cases speak of, each once."""
    return list(dict.fromkeys(case[place] for case in cases for place in ("read", "held") if case[place]))


def _right(row: Row, at: str) -> bool:
    """Not wrong as far as anybody knows: where the evidence was not located, the answer alone tells."""
    return at == UNKNOWN and (not tells(row) or answer_score(row) >= ENOUGH)


def _order(row: Row) -> tuple[bool, bool, float]:
    return row["abstained"], answer_score(row) >= ENOUGH, -(row.get("confidence") or 0.0)


def _case(row: Row, at: str) -> dict[str, Any]:
    citations: Sequence[Mapping[str, Any]] = row["citations"] or ()
    hits: Sequence[Mapping[str, Any]] = row["hits"] or ()
    found = [hit["passage"] for hit in hits]
    cited = [citation["passage"] for citation in citations] or found
    best = [id_ for id_ in found if id_ in row["relevant"]] or list(row["relevant"])
    return {
        "question": row["question"],
        "wanted": list(row["answers"]),
        "source": row["source"],
        "answer": "" if row["abstained"] else row["answer"],
        "stage": at,
        "confidence": row.get("confidence"),
        "quote": citations[0]["quote"] if citations else "",
        "read": cited[0] if cited else "",
        "held": best[0] if best else "",
    }
