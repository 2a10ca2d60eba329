"""Batches of near-equal length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], *, budget: int, most: int = 64) -> Iterator[list[int]]:
    """Indices in batches, longest first, each of at most `most` rows and `budget` padded tokens (or one row).

    Longest first: what does not fit into memory fails at once and not at the end.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == most or lengths[batch[0]] * (len(batch) + 1) > budget):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
