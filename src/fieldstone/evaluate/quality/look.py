"""Look at the questions of a workspace, or of a file, with the workspace's documents and models at hand."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.evidence import locate, relevant_passages
from fieldstone.evaluate.quality.closed_book import closed_book as ask_without
from fieldstone.evaluate.quality.found import ALIKE, Quality, measure_quality
from fieldstone.evaluate.questions import read_questions
from fieldstone.examples import SPLITS, rating_histograms, read_examples
from fieldstone.in_use import with_tuned
from fieldstone.library import Library
from fieldstone.models import load_encoder, load_generator
from fieldstone.progress import Progress, silent
from fieldstone.records import Example, Passage
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace


def look(
    workspace: Workspace,
    settings: Settings,
    questions: Path | None = None,
    *,
    closed_book: int = 0,
    alike: float = ALIKE,
    progress: Progress = silent,
) -> Quality:
    """The quality of the questions that the workspace wrote, or of those in a file.

    A file's questions are compared with those trained on, too. So many questions drawn by chance are put to
    the generator without their passage. Raises QuestionsError where there is no question.
    """
    used = with_tuned(workspace, settings)
    models, library = used.models, workspace.library()
    folder = workspace.path / "examples"
    written = {split: read_examples(folder / f"{split}.jsonl") for split in SPLITS}
    passages = library.passages()
    sources = {id_: source for id_, (source, _) in library.sources({p.document_id for p in passages}).items()}
    if questions is not None:
        sets = {questions.name: examples_of(library, questions, passages)}
    else:
        sets = {split: its for split, its in written.items() if its}
    every = [example for its in sets.values() for example in its]
    if not every:
        raise QuestionsError(
            f"{workspace.path} has no questions yet; type: fieldstone synthesize {workspace.path}, "
            "or name a file with --questions"
        )
    device, threads, engine = models.device, models.threads or None, models.engine
    encoder = load_encoder(models.encoder, device=device, threads=threads, engine=engine)
    near = {id_ for e in every for id_ in (e.passage_id or "", *e.negatives)}
    found = library.vectors(library.meta("encoder") or "", sorted(near))
    known = None
    if closed_book:
        there = {p.id: p.document_id for p in passages}
        fit = [e for e in every if e.answer and e.passage_id in there and "form" not in e.made_by]
        drawn = random.Random(settings.seed).sample(fit, min(closed_book, len(fit)))
        generator = load_generator(models.generator, device=device, threads=threads, engine=engine)
        known = ask_without(generator, drawn, library.passage_texts(), there, progress)
    mine = questions is None
    return measure_quality(
        sets,
        passages,
        sources,
        encoder,
        {id_: vector for ids, vectors in found for id_, vector in zip(ids, vectors, strict=True)},
        train=written["train"],
        rejected=[str(row.get("reason")) for row in _lines(folder / "rejected.jsonl")] if mine else (),
        lifts=list(_lifts(folder / "asked.jsonl")) if mine else (),
        ratings=_ratings(folder / "asked.jsonl") if mine else None,
        closed_book=known,
        alike=alike,
    )


def examples_of(library: Library, path: Path, passages: Sequence[Passage]) -> list[Example]:
    """The questions of a file as examples; the passage is the first that holds the evidence, if one does."""
    asked = read_questions(path)
    located = locate(asked, library.documents())
    of: dict[str, list[Passage]] = {}
    for passage in passages:
        of.setdefault(passage.document_id, []).append(passage)
    examples = []
    for q in asked:
        held = [
            p.id
            for document, spans in located.spans.get(q.id, {}).items()
            for p in of.get(document, ())
            if p.id in relevant_passages(spans, [p])
        ]
        kind: Any = "answerable" if q.answerable else "unanswerable"
        answer = q.answers[0] if q.answers else ""
        examples.append(Example(q.id, q.question, answer, held[0] if held else None, (), kind, "human"))
    return examples


def _lifts(path: Path) -> Iterator[float]:
    for line in _lines(path):
        yield from (
            asked["lift"] for asked in line.get("asked", ()) if np.isfinite(asked.get("lift", np.nan))
        )


def _ratings(path: Path) -> dict[str, dict[str, int]]:
    return rating_histograms(line.get("ratings") or {} for line in _lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, what a kill left half written passed over."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
