"""Which questions stand together in a step: planned ahead, so that a killed run finds its place again."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

Plan = list[list[list[int]]]  # epochs, steps, rows


@dataclass(frozen=True, slots=True)
class Row:
    """One question for the trainer: `texts` are the question and its passages, the positive one first.

    `scores` are a teacher's, one a passage, or none; for the fused loss, the share of the target that each
    passage gets. `passage_id` says which passage is the positive; None
    where the rows of a batch are not negatives of one another. `keys` stand for the passages where their
    texts would be too long: `lexical` says what the lexical search adds to the cosine of which of them.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    passage_id: str | None
    keys: tuple[str, ...] = ()
    lexical: Mapping[str, float] = field(default_factory=dict)

    def prefixed(self, query: str, passage: str) -> Row:
        """The same row with the encoder's prefixes written out."""
        question, *passages = self.texts
        return replace(self, texts=(query + question, *(passage + text for text in passages)))


def labels_of(rows: Sequence[Row]) -> list[list[float]] | None:
    """What the loss of a step is told besides its texts: a teacher's scores, or what `fused` needs."""
    if rows[0].keys:
        return _fused_labels(rows)
    return [list(row.scores) for row in rows] if rows[0].scores else None


def _fused_labels(rows: Sequence[Row]) -> list[list[float]]:
    """For each row and all passages of the batch: what the lexical search adds, then the target.

    The passages as the loss sees them: all positives, then all first negatives, and so on.
    """
    passages = [key for column in zip(*(row.keys for row in rows), strict=True) for key in column]
    labels = []
    for place, row in enumerate(rows):
        target = [0.0] * len(passages)
        target[place :: len(rows)] = row.scores
        labels.append([row.lexical.get(key, 0.0) for key in passages] + target)
    return labels


@dataclass(slots=True)
class _Step:
    rows: list[int] = field(default_factory=list)
    positives: set[str] = field(default_factory=set)
    negatives: set[str] = field(default_factory=set)

    def takes(self, row: Row) -> bool:
        """Whether the row can join without being, or getting, a false negative."""
        if row.passage_id is None:
            return True
        _, positive, *negatives = row.texts
        return (
            row.passage_id not in self.positives
            and positive not in self.positives
            and positive not in self.negatives
            and self.positives.isdisjoint(negatives)
        )

    def add(self, index: int, row: Row) -> None:
        self.rows.append(index)
        if row.passage_id is not None:
            self.positives |= {row.passage_id, row.texts[1]}
            self.negatives |= set(row.texts[2:])


def plan_steps(rows: Sequence[Row], batch: int, epochs: int, seed: int) -> Plan:
    """The rows of each step of each epoch: every row once an epoch, at most `batch` in a step.

    The rows of a step have equally many texts. No two questions of one passage meet in a step, and no
    positive meets itself as another question's negative. sentence-transformers' NO_DUPLICATES sampler does
    that too, but its epochs end after rows / batch steps: with few passages and many questions of each, most
    questions would never be seen. Here there are as many steps as it takes.
    """
    shuffle = random.Random(seed)
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(len(row.texts), []).append(index)
    plan: Plan = []
    for _ in range(epochs):
        steps = [
            step
            for group in groups.values()
            for step in _deal(rows, shuffle.sample(group, len(group)), batch)
        ]
        shuffle.shuffle(steps)
        plan.append(steps)
    return plan


def _deal(rows: Sequence[Row], order: list[int], batch: int) -> list[list[int]]:
    """Deal the rows out to the steps like cards; a step that cannot take one passes it on to the next."""
    asked = Counter(rows[index].passage_id for index in order if rows[index].passage_id is not None)
    steps = [_Step() for _ in range(max(math.ceil(len(order) / batch), *asked.values(), 1))]
    for place, index in enumerate(order):
        turns = (steps[(place + turn) % len(steps)] for turn in range(len(steps)))
        step = next((step for step in turns if len(step.rows) < batch and step.takes(rows[index])), None)
        if step is None:
            step = _Step()
            steps.append(step)
        step.add(index, rows[index])
    return [step.rows for step in steps if step.rows]
