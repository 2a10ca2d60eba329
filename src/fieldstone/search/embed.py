"""Passages to vectors, kept in the library batch by batch."""

from __future__ import annotations

from fieldstone.library import Library
from fieldstone.models import Encoder
from fieldstone.progress import Progress, silent

BATCH = 256
"""Passages a transaction: what a kill can cost. Sorted by length inside, so not too few."""


def embed_library(library: Library, encoder: Encoder, progress: Progress = silent) -> int:
    """Give every passage its vector, then switch to this encoder; returns how many were missing.

    Goes on where it stopped. Another encoder's vectors stay in use until the last one is there.
    """
    missing = embed_beside(library, encoder, progress)
    library.use_encoder(encoder.fingerprint)
    return missing


def embed_beside(library: Library, encoder: Encoder, progress: Progress = silent) -> int:
    """Give every passage a vector of this encoder, beside those in use; returns how many were missing."""
    rows = library.unembedded(encoder.fingerprint)
    progress("embed", 0, len(rows), "passages")
    for start in range(0, len(rows), BATCH):
        texts = library.texts_of(rows[start : start + BATCH])
        vectors = encoder.encode_passages([text for _, text in texts])
        library.put_vectors(encoder.fingerprint, [row for row, _ in texts], vectors)
        progress("embed", min(start + BATCH, len(rows)), len(rows), "passages")
    return len(rows)
