"""A store follows the library: what that gained is added, what it lost goes."""

from __future__ import annotations

from fieldstone.library import Library
from fieldstone.progress import Progress, silent
from fieldstone.search.stores import Store


def follow(
    library: Library,
    encoder: str,
    store: Store,
    held: set[str] | None = None,
    progress: Progress = silent,
) -> set[str]:
    """Bring the store up to date with the vectors of the encoder of this fingerprint; the ids it then holds.

    `held`: what it is known to hold. Stopped in the middle, it goes on with what is missing.
    """
    wanted = library.embedded(encoder)
    there = store.ids() if held is None else held
    store.remove(sorted(there - wanted))
    missing = sorted(wanted - there)
    done = len(wanted) - len(missing)
    if missing:
        progress("vectors", done, len(wanted), "vectors")
    # all of them in one scan of the file; it is faster than looking for each
    batches = library.vectors(encoder, missing) if there or not missing else library.all_vectors(encoder)
    with store.loading(len(missing), progress):
        for ids, vectors in batches:
            store.add(ids, vectors)
            done += len(ids)
            progress("vectors", done, len(wanted), "vectors")
    return wanted
