"""Passages to vectors, kept in the library batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fieldstone.library import Library
from fieldstone.models import Encoder, Vectors
from fieldstone.progress import Progress, silent
from fieldstone.spread import Spread, here

BATCH = 256
"""Passages a transaction: what a kill can cost. Sorted by length inside, so not too few."""


def embed_library(
    library: Library, encoder: Encoder, progress: Progress = silent, spread: Spread = here
) -> int:
    """Give every passage its vector, then switch to this encoder; returns how many were missing.

    Goes on where it stopped. Another encoder's vectors stay in use until the last one is there.
    """
    missing = embed_beside(library, encoder, progress, spread)
    library.use_encoder(encoder.fingerprint)
    return missing


def embed_beside(
    library: Library, encoder: Encoder, progress: Progress = silent, spread: Spread = here
) -> int:
    """Give every passage a vector of this encoder, beside those in use; returns how many were missing."""
    rows = library.unembedded(encoder.fingerprint)
    progress("embed", 0, len(rows), "passages")
    starts = range(0, len(rows), BATCH)
    texts = (library.texts_of(rows[start : start + BATCH]) for start in starts)
    embedded = spread(partial(_embed, encoder), texts)
    for start, (its, vectors) in zip(starts, embedded, strict=True):
        library.put_vectors(encoder.fingerprint, its, vectors)
        progress("embed", min(start + BATCH, len(rows)), len(rows), "passages")
    return len(rows)


def _embed(encoder: Encoder, texts: Sequence[tuple[int, str]]) -> tuple[list[int], Vectors]:
    """The rows and their vectors."""
    return [row for row, _ in texts], encoder.encode_passages([text for _, text in texts])
