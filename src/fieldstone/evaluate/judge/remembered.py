"""What a model said before, a line each in a file that grows: a kill costs one batch, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from fieldstone.progress import Progress, silent

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")


def remembered(
    path: Path | None,
    kind: type[T],
    keys: Sequence[str],
    ask: Callable[[Sequence[int]], Sequence[T]],
    batch: int,
    step: str,
    progress: Progress = silent,
) -> list[T]:
    """What stands under each key in the file; the rest is asked, `batch` places at a time, and put there.

    `ask` is given places in `keys` and returns a record of `kind`, a frozen dataclass, for each; keys that
    are the same are asked once. Damaged lines are passed over, so what they said is asked again. Without
    a path nothing is kept.
    """
    known = _read(path, kind) if path is not None else {}
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    places = sorted(place for key, place in first.items() if key not in known)
    done = len(first) - len(places)
    progress(step, done, len(first), "answers")
    for start in range(0, len(places), batch):
        asked = places[start : start + batch]
        said = dict(zip((keys[place] for place in asked), ask(asked), strict=True))
        if path is not None:
            _append(path, [{"key": key, **asdict(record)} for key, record in said.items()])
        known |= said
        done += len(asked)
        progress(step, done, len(first), "answers")
    return [known[key] for key in keys]


def _read(path: Path, kind: type[T]) -> dict[str, T]:
    adapter, known = TypeAdapter(kind), {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            known[str(row.pop("key"))] = adapter.validate_python(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return known


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # what a kill left half written must not spoil what comes next
                file.write(b"\n")
        file.write(
            "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
        )
