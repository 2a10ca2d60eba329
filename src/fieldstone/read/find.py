"""Which files of a folder there are to read, and why each of the others is not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fieldstone.errors import ReadError

MAX_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the folder: `source` is its name there, `size` is in bytes.

    `skipped` says why it is not to be read; a folder that is left out whole stands as one, ending in `/`.
    """

    source: str
    path: Path
    size: int
    skipped: str | None = None


def find_files(
    folder: Path | str, exclude: Sequence[str] = (), max_bytes: int = MAX_BYTES
) -> Iterator[Found]:
    """Every file below `folder` in the order of its name, or the one file that `folder` is.

    An `exclude` pattern (`*.tmp`, `drafts`, `2019/*/old`) is matched against the path inside the folder, the
    path of each folder above, and each name on the way. Links are followed to files inside the folder only.
    ReadError if there is no such folder.
    """
    start = Path(folder)
    try:
        root = start.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ReadError(str(folder), "no such file or folder; check the path") from error
    if root.is_dir():
        return _walk(root, exclude, max_bytes)
    return iter([_judge(root, _as_utf8(start.name), root.parent, exclude, max_bytes)])


def _walk(root: Path, exclude: Sequence[str], max_bytes: int) -> Iterator[Found]:
    pending = [root]
    while pending:
        path = pending.pop()
        source = "" if path == root else source_of(path, root)
        if not _is_folder(path):
            hidden = "hidden (its name starts with a dot)" if path.name.startswith(".") else None
            yield Found(source, path, 0, hidden) if hidden else _judge(path, source, root, exclude, max_bytes)
            continue
        reason = _folder_reason(path, source, exclude) if source else None
        if reason is None:
            try:
                pending += sorted(path.iterdir(), key=lambda child: os.fsencode(child.name), reverse=True)
                continue
            except OSError as error:
                reason = f"cannot be opened: {error.strerror}"
        yield Found(source + "/", path, 0, reason)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:  # `_judge` says why
        return False


def source_of(path: Path, root: Path) -> str:
    """The path inside the folder, as sources have it."""
    return _as_utf8(path.relative_to(root).as_posix())


def _as_utf8(name: str) -> str:
    """The name as valid UTF-8: bytes that are not stand as `\\xe4`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _folder_reason(path: Path, source: str, exclude: Sequence[str]) -> str | None:
    if path.name.startswith("."):
        return "hidden (its name starts with a dot)"
    return excluded(source, exclude)


def excluded(source: str, exclude: Sequence[str]) -> str | None:
    """Why a file or folder of this source is left out, by these patterns; None if it is not."""
    parts = source.split("/")
    names = {*parts, *("/".join(parts[:end]) for end in range(1, len(parts) + 1))}
    for pattern in exclude:
        if any(fnmatchcase(name, pattern.removeprefix("./").rstrip("/")) for name in names):
            return f"excluded by {pattern!r}"
    return None


def _judge(path: Path, source: str, root: Path, exclude: Sequence[str], max_bytes: int) -> Found:
    """The file at `path`, with the reason if it is not to be read."""
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            return Found(source, path, 0, "a link that leaves the folder")
        status = path.stat()
    except FileNotFoundError:
        return Found(source, path, 0, "a link that leads nowhere")
    except (OSError, RuntimeError) as error:
        return Found(source, path, 0, f"cannot be opened: {getattr(error, 'strerror', None) or error}")
    reason = excluded(source, exclude)
    if reason is None and stat.S_ISDIR(status.st_mode):
        reason = "a link to a folder inside this one"
    elif reason is None and not stat.S_ISREG(status.st_mode):
        reason = "not a regular file"
    elif reason is None and status.st_size > max_bytes:
        reason = f"oversized: {status.st_size / 2**20:,.1f} MiB, the limit is {max_bytes / 2**20:,.1f} MiB"
    return Found(source, path, status.st_size, reason)
