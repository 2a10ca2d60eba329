"""Files into the library: only what changed is read, and what is gone from the folder goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fieldstone.errors import ReadError, WorkspaceError
from fieldstone.library import FileRow, Library
from fieldstone.progress import Progress, silent, track
from fieldstone.read.elsewhere import read_elsewhere
from fieldstone.read.find import Found, find_files, source_of
from fieldstone.read.pool import Limits, read_files
from fieldstone.records import fingerprint
from fieldstone.settings import ReadSettings
from fieldstone.spread import Spread, here

VERSION = "1"
"""Raised when the readers would give another text for the same file."""


@dataclass(frozen=True, slots=True)
class Added:
    """What became of the files under a path: sources, and why some gave no text or were not read."""

    read: tuple[str, ...]
    unchanged: int
    removed: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]


def add_files(
    library: Library,
    path: Path,
    settings: ReadSettings,
    progress: Progress = silent,
    only: Collection[Path] | None = None,
    spread: Spread = here,
) -> Added:
    """Bring the library up to date with a file or folder; what stands there already is left alone.

    With `only`, absolute paths in the folder, no other files are looked at, nor forgotten, than these and
    those below them. That is for who follows a folder: what a person took out (`remove_sources`) stays out.
    Without it a person adds all of it, and such files come back. The files are read where `spread` says.

    A file's source is its path inside the folder that was added first above it. The sources of a second
    folder start with its name. Raises ReadError when there is no such path, WorkspaceError when two folders
    would give one source.
    """
    label, prefix, at = _place(library, path)
    named = None if only is None else {source_of(one, at) for one in only}
    found = [
        replace(file, source=prefix + file.source)
        for file in find_files(at, settings.exclude, int(settings.max_megabytes * 2**20))
        if _among(file.source, named)
    ]
    below = prefix if at.is_dir() else prefix + at.name

    def covered(source: str) -> bool:  # whether this path would give it if it were still there
        its = source.startswith(below) if at.is_dir() else source == below
        return its and _among(source.removeprefix(prefix), named)

    left_out = library.left_out()
    if only is not None:
        found = [file for file in found if file.source not in left_out]
    elif back := {source for source in left_out if covered(source)}:
        library.take_back(back)
    return bring_in(library, label, found, covered, settings, progress, spread)


def bring_in(
    library: Library,
    label: str,
    found: Sequence[Found],
    covered: Callable[[str], bool],
    settings: ReadSettings,
    progress: Progress = silent,
    spread: Spread = here,
) -> Added:
    """Bring what the library holds of a root up to date with what was found there.

    Of the root's sources those that are `covered` go when they were not found. Raises WorkspaceError when
    a source is there already from another root.
    """
    limits = Limits(settings.seconds_a_file, settings.memory_megabytes << 20)
    skipped = tuple((file.source, file.skipped) for file in found if file.skipped is not None)
    present = [file for file in found if file.skipped is None]
    rows, roots = library.files(), library.roots()
    if clash := next((f.source for f in present if f.source in rows and rows[f.source].root != label), None):
        raise WorkspaceError(
            f"{clash} is there already, from {roots[rows[clash].root]}; "
            f"rename {roots[label]} or build it a workspace of its own"
        )
    known = {source: row for source, row in rows.items() if row.root == label}
    changed = [file for file in present if not _unchanged(file, known.get(file.source))]
    gone = {source for source in known if covered(source)} - {file.source for file in present}
    library.remove_files(gone)
    read, unread, warnings = [], [], []
    sizes = {file.source: file.size for file in changed}
    if spread is here:
        results = read_files(changed, limits, settings.workers or None)
    else:
        results = read_elsewhere(changed, limits, spread)
    for result in track(results, len(changed), "read", "files", progress):
        row = FileRow(
            result.source,
            label,
            result.content_hash,
            VERSION,
            sizes[result.source],
            result.reason,
            result.warnings,
        )
        library.put_file(row, result.documents)
        warnings += [(result.source, warning) for warning in result.warnings]
        if result.reason is None:
            read.append(result.source)
        else:
            unread.append((result.source, result.reason))
    return Added(
        tuple(read), len(present) - len(changed), tuple(sorted(gone)), tuple(unread), skipped, tuple(warnings)
    )


def remove_sources(library: Library, patterns: Collection[str]) -> tuple[str, ...]:
    """Forget the files of these sources (a folder's source stands for all in it); returns which they were.

    They stay out until somebody adds them again, though their folder is followed.
    """
    files = library.files()
    gone = {
        source
        for source in files
        for pattern in patterns
        if source == pattern or source.startswith(pattern.rstrip("/") + "/")
    }
    library.leave_out(gone)
    library.remove_files(gone)
    return tuple(sorted(gone))


def _place(library: Library, path: Path) -> tuple[str, str, Path]:
    """The root's label, what comes before a source, and the absolute path to walk."""
    try:
        at = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ReadError(str(path), "no such file or folder; check the path") from None
    folder = at if at.is_dir() else at.parent
    roots = library.roots()
    above = [label for label, root in roots.items() if at.is_relative_to(root)]
    label = max(above, key=lambda label: len(roots[label]), default=None)  # the nearest one
    if label is None:
        label = "" if "" not in roots else folder.name
        if label in roots:
            raise WorkspaceError(
                f"{roots[label]} goes by the name {label!r} already; "
                f"rename {folder} or build it a workspace of its own"
            )
        library.add_root(label, str(folder))
        roots[label] = str(folder)
    parts = [label, folder.relative_to(roots[label]).as_posix()]
    return label, "".join(f"{part}/" for part in parts if part not in ("", ".")), at


def _unchanged(file: Found, row: FileRow | None) -> bool:
    if row is None or row.reader != VERSION or row.size != file.size or not row.content:
        return False
    try:
        return fingerprint(file.path.read_bytes()) == row.content
    except OSError:
        return False  # the reader will say why


def _among(source: str, named: Collection[str] | None) -> bool:
    """Whether a file of the folder is one of these, or below one; "." is the folder itself."""
    if named is None or "." in named:
        return True
    parts = source.split("/")
    return any("/".join(parts[:end]) in named for end in range(1, len(parts) + 1))
