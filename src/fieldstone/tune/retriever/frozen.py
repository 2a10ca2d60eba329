"""Passages whose vectors stay as they are while questions learn: each once, and which stand in which row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fieldstone.models import Encoder, Vectors
from fieldstone.progress import Progress
from fieldstone.tune.retriever.batches import Row

BATCH = 256
"""Passages encoded at once."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """`vectors`: (passages, dimension), unit length; `places`: which of them are the passages of each row."""

    vectors: Vectors
    places: tuple[tuple[int, ...], ...]


def freeze(rows: Sequence[Row], encoder: Encoder, known: Mapping[str, Vectors], progress: Progress) -> Frozen:
    """The rows' passages with their vectors, those not `known` (text -> vector) encoded now."""
    order: dict[str, int] = {}
    places = tuple(tuple(order.setdefault(text, len(order)) for text in row.texts[1:]) for row in rows)
    vectors = np.zeros((len(order), encoder.dimension), np.float32)
    missing = []
    for text, place in order.items():
        if text in known:
            vectors[place] = known[text]
        else:
            missing.append(text)
    for start in range(0, len(missing), BATCH):
        progress("embed", start, len(missing), "passages")
        batch = missing[start : start + BATCH]
        vectors[[order[text] for text in batch]] = encoder.encode_passages(batch)
    if missing:
        progress("embed", len(missing), len(missing), "passages")
    return Frozen(vectors, places)
