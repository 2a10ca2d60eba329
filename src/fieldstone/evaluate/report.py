"""An evaluation on paper: one JSON file, one self-contained HTML page, and a row a question and system."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.page import render_page

Estimates = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    `systems` is name -> measure -> estimate, `differences` the same under names such as "fused - dense".
    `rows` are JSON objects, one a question and system; `notes` are sentences that the reader must know,
    such as how many questions could not be located.
    """

    date: datetime
    systems: Estimates
    differences: Estimates = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: Iterable[Mapping[str, Any]] = ()


class ReportPaths(NamedTuple):
    """Where a report lies."""

    json: Path
    html: Path
    rows: Path


def write_report(folder: Path, evaluation: Evaluation) -> ReportPaths:
    """Write `report.json`, `report.html` and `rows.jsonl` into a folder named by the date."""
    stamp = evaluation.date.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    into = _new_folder(folder, stamp)
    paths = ReportPaths(into / "report.json", into / "report.html", into / "rows.jsonl")
    with paths.rows.open("w", encoding="utf-8", newline="\n") as rows:
        for row in evaluation.rows:
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
    content = as_json(evaluation)
    paths.html.write_text(render_page(content), encoding="utf-8", newline="\n")
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    paths.json.write_text(text + "\n", encoding="utf-8", newline="\n")
    return paths


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation without its rows as one JSON object; an estimate is {value, low, high, n}."""
    return {
        "date": evaluation.date.astimezone(UTC).isoformat(timespec="seconds"),
        "systems": _plain(evaluation.systems),
        "differences": _plain(evaluation.differences),
        "notes": list(evaluation.notes),
        "settings": dict(evaluation.settings),
    }


def _plain(estimates: Estimates) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {measure: asdict(estimate) for measure, estimate in measures.items()}
        for name, measures in estimates.items()
    }


def _new_folder(folder: Path, stamp: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 1000))):
        try:
            (folder / name).mkdir()
        except FileExistsError:
            continue
        return folder / name
    raise FileExistsError(f"{folder} holds a thousand reports of {stamp}; delete some")
