"""One workspace to several, each with some of its documents, to try a federation on one machine."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from fieldstone.errors import FederationError
from fieldstone.examples import SPLITS, read_examples, write_examples
from fieldstone.library import Library
from fieldstone.records import Example, fingerprint
from fieldstone.workspace import Workspace


def divided(library: Library, count: int, *, skewed: bool, seed: int = 0) -> list[list[str]]:
    """The sources of each of `count` sites, about as many passages each.

    Even: in random order. Skewed: in the order of their topic, which is where the mean vector of a source
    lies along the direction in which the means differ most (the first principal component), so that
    neighbours are of one kind. Raises FederationError for fewer sources than sites.
    """
    sources = library.sources({p.document_id for p in library.passages()})
    of_source: dict[str, list[str]] = {}
    for passage in library.passages():
        of_source.setdefault(sources[passage.document_id][0], []).append(passage.id)
    if len(of_source) < count:
        raise FederationError(f"{len(of_source)} documents cannot be divided among {count} sites")
    order = sorted(of_source, key=lambda source: fingerprint("site", seed, source))
    if skewed:
        place = _topics(library, of_source)
        order.sort(key=lambda source: place[source])
    sites: list[list[str]] = [[] for _ in range(count)]
    share = sum(map(len, of_source.values())) / count
    filled = 0.0
    for position, source in enumerate(order):
        middle = filled + len(of_source[source]) / 2
        site = min(int(middle / share), count - 1)
        left = len(order) - position
        empty = [i for i in range(count) if not sites[i]]
        sites[empty[0] if left <= len(empty) else site].append(source)
        filled += len(of_source[source])
    return sites


def part_of(workspace: Workspace, sources: Sequence[str], into: Path) -> Workspace:
    """A workspace with these documents alone, and the examples about them; nothing tuned comes along."""
    into.mkdir(parents=True)
    with (
        closing(sqlite3.connect(workspace.path / "library.db")) as given,
        closing(sqlite3.connect(into / "library.db")) as new,
    ):
        given.backup(new)
    site = Workspace(into)
    library = site.library()
    library.remove_files(set(library.files()) - set(sources))
    own = {p.id for p in library.passages()}
    library.close()
    with closing(sqlite3.connect(into / "library.db")) as connection:
        connection.execute("VACUUM")  # what was removed is not to lie in the free pages
    for split in SPLITS:
        examples = read_examples(workspace.path / "examples" / f"{split}.jsonl")
        write_examples(into / "examples" / f"{split}.jsonl", _about(examples, own))
    if workspace.settings_file.exists():
        shutil.copy(workspace.settings_file, site.settings_file)
    return site


def _about(examples: Sequence[Example], own: set[str]) -> list[Example]:
    """The examples about these passages, their negatives among them."""
    kept = []
    for example in examples:
        negatives = tuple(id_ for id_ in example.negatives if id_ in own)
        about = example.passage_id or next(iter(example.negatives), None)
        if about in own:
            kept.append(replace(example, negatives=negatives))
    return kept


def _topics(library: Library, of_source: dict[str, list[str]]) -> dict[str, float]:
    encoder = library.meta("encoder") or ""
    means = []
    for ids in of_source.values():
        rows = [batch for _, batch in library.vectors(encoder, ids)]
        if not rows:
            raise FederationError(
                "the library has no vectors to tell topics by; type: fieldstone build FOLDER --into WORKSPACE"
            )
        means.append(np.concatenate(rows).mean(axis=0))
    matrix = np.stack(means)
    _, _, directions = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    return dict(zip(of_source, (matrix @ directions[0]).tolist(), strict=True))
