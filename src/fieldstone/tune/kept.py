"""Slow work over many items, kept in a file batch by batch, so that a kill costs one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fieldstone.examples import whole_lines
from fieldstone.progress import Progress
from fieldstone.records import fingerprint

T = TypeVar("T")

BATCH = 32
"""Items worked on at once: what a kill can cost."""


def by_batches(
    items: Sequence[T], work: Callable[[Sequence[T]], list[Any]], kept: Path, progress: Progress
) -> Iterator[Any]:
    """What `work` makes of each item; each batch is kept in the file, and found there again after a kill."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = {line["batch"]: line["found"] for line in whole_lines(kept)}
    progress("teach", 0, len(items), "questions")
    with kept.open("a", encoding="utf-8", newline="\n") as file:
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            key = fingerprint(*batch)
            if key not in known:
                known[key] = work(batch)
                file.write(json.dumps({"batch": key, "found": known[key]}) + "\n")
                file.flush()
            yield from known[key]
            progress("teach", min(start + BATCH, len(items)), len(items), "questions")
