"""A workspace kept up to date while it is served: uploads are kept, then worked in behind the answers."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fieldstone import models, recipes
from fieldstone.errors import NotReady, RequestError, WorkspaceError
from fieldstone.models import Loader
from fieldstone.serve.batches import STOPPED, apart
from fieldstone.workspace import Workspace

log = logging.getLogger(__name__)

LABEL = "uploads"
"""The folder in the workspace that uploads are kept in, and what their sources begin with."""

AGAIN = 5.0
"""Seconds until work that failed is tried again: another process may hold the workspace."""


class Upkeep:
    """One workspace's uploads: kept at once, worked in one after the other, removed when asked.

    What was kept before a kill is worked in after the next start. The encoder is one that the process has
    already, where there is somebody to `borrow` from.
    """

    def __init__(self, workspace: Workspace, borrow: Callable[[], Loader] = lambda: models) -> None:
        self._borrow = borrow
        self.workspace, self.folder = workspace, workspace.path.resolve() / LABEL
        self._wanted, self._turn = asyncio.Event(), asyncio.Lock()
        self._waiting: set[str] = set()
        self._at: tuple[str, int, int, str] | None = None
        self._problem: str | None = None
        self._stopping = False

    def keep(self, files: Sequence[tuple[str, BinaryIO]], most_bytes: int) -> list[str]:
        """Keep the content of these files under these names; returns their sources. On disk once it returns.

        Raises RequestError for a name that is none, for a file of more than `most_bytes`, and where the disk
        is full; nothing is kept then.
        """
        names = [checked_name(name) for name, _ in files]
        self._refuse_taken(names)
        partials: list[Path] = []
        try:
            self.folder.mkdir(exist_ok=True)
            for name, content in files:
                partials.append(self.folder / f".{secrets.token_hex(8)}.partial")
                _write(partials[-1], name, content, most_bytes)
            self._take_back([f"{LABEL}/{name}" for name in names])
            for name, written in zip(names, partials, strict=True):
                written.replace(self.folder / name)
            _sync(self.folder)
        except OSError as error:
            raise RequestError(f"it cannot be kept: {error.strerror}", status=507, code="no_room") from error
        finally:
            for written in partials:
                written.unlink(missing_ok=True)
        return [f"{LABEL}/{name}" for name in names]

    def wake(self, sources: Sequence[str] = ()) -> None:
        """Something changed in the folder: work it in."""
        self._waiting.update(sources)
        self._wanted.set()

    async def run(self) -> None:
        """Work in what is uploaded, again and again, until cancelled; first what was left by a kill."""
        try:
            left = await apart(self._left_over)
        except Exception:  # the work itself says what is wrong
            left = []
        if left is not None:
            self.wake(left)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            waiting = set(self._waiting)
            try:
                async with self._turn:
                    await apart(self._work_in)
                self._waiting -= waiting
                self._problem = None
            except Exception as error:  # whatever it is, the next try may find it mended
                if self._stopping:
                    return
                log.error("uploads to %s cannot be worked in: %s", self.workspace.path, error)
                self._problem = "uploads cannot be worked in; the log says why"
                self._wanted.set()
                await asyncio.sleep(AGAIN)
            finally:
                self._at = None

    async def remove(self, source: str) -> bool:
        """Take a file out of the workspace, in its turn; says whether it was an upload, which is deleted too.

        Raises RequestError where there is no such file.
        """
        async with self._turn:
            try:
                return await apart(partial(self._remove, source))
            finally:
                self.wake()  # if it could not be taken out now, it goes with the next work

    def stop(self) -> None:
        """End the work under way soon; what was done so far stays."""
        self._stopping = True

    @property
    def progress(self) -> dict[str, Any] | None:
        """What is being worked in, and what waits; None where nothing is to do."""
        if not (self._at or self._waiting or self._problem):
            return None
        step, done, total, unit = self._at or (None, 0, 0, "")
        told = {"step": step, "done": done, "total": total, "unit": unit}
        return told | {"waiting": sorted(self._waiting), "problem": self._problem}

    # -- in threads of their own

    def _left_over(self) -> list[str] | None:
        """Uploads that the library does not have, or has not finished; None where there is nothing to do.

        What was cut off is cleared away.
        """
        for cut_off in self.folder.glob(".*.partial"):
            cut_off.unlink(missing_ok=True)
        there = {f"{LABEL}/{path.name}" for path in self.folder.glob("[!.]*")}
        library = self.workspace.library()
        try:
            files, counts, left_out = library.files(), library.counts(), library.left_out()
        finally:
            library.close()
        gone = {source for source, row in files.items() if row.root == LABEL} - there
        unfinished = bool(counts.unsplit or counts.embedded < counts.passages)
        new = there - files.keys() - left_out
        return sorted(new) if new or gone or unfinished else None

    def _work_in(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self._own_root()
        settings = recipes.choose_settings(None, self.workspace.stored_settings())
        recipes.update(
            self.workspace, settings, [self.folder], self._tell, only=[self.folder], loader=self._borrow()
        )

    def _own_root(self) -> None:
        """Make the folder one of the library's: also where it lies in another one of them, or has moved."""
        library = self.workspace.library()
        try:
            there = library.roots().get(LABEL)
            if there == str(self.folder):
                return
            if there is not None and Path(there).is_dir():
                raise WorkspaceError(
                    f"{there} goes by the name {LABEL!r} already, so uploads cannot; "
                    "rename it and build it anew, or upload to another workspace"
                )
            library.add_root(LABEL, str(self.folder))
        finally:
            library.close()

    def _take_back(self, sources: Sequence[str]) -> None:
        library = self.workspace.library()
        try:
            library.take_back(sources)
        finally:
            library.close()

    def _refuse_taken(self, names: Sequence[str]) -> None:
        library = self.workspace.library()
        try:
            files = library.files()
        finally:
            library.close()
        for name in names:
            row = files.get(f"{LABEL}/{name}")
            if row is not None and row.root != LABEL:
                raise RequestError(
                    f"{LABEL}/{name} is the name of another document here; give the file another name",
                    status=409,
                    code="name_taken",
                    param="file",
                )

    def _remove(self, source: str) -> bool:
        path = self.folder / source.removeprefix(f"{LABEL}/")
        uploaded = path.parent == self.folder and source.startswith(f"{LABEL}/") and path.is_file()
        if uploaded:
            path.unlink()
            _sync(self.folder)
        if not recipes.remove(self.workspace, [source]) and not uploaded:
            raise RequestError(
                f"there is no document {source[:200]!r}", status=404, code="not_found", param="source"
            )
        self._waiting.discard(source)
        return uploaded

    def _tell(self, step: str, done: int, total: int, unit: str) -> None:
        if self._stopping:
            raise NotReady(STOPPED)
        self._at = (step, done, total, unit)


def checked_name(name: str) -> str:
    """The name of an upload, if it is one: no path, not hidden, of printable characters.

    Raises RequestError where it is none.
    """
    name = unicodedata.normalize("NFC", name)
    if not name.isprintable() or any(mark in name for mark in "/\\\0") or name.startswith("."):
        why = "it must be a plain file name, without a path, not beginning with a dot"
    elif not name.strip() or len(name.encode()) > 200:
        why = "it must be 1 to 200 bytes long"
    else:
        return name
    raise RequestError(f"{name[:100]!r} cannot be kept: {why}", code="bad_name", param="file")


def _write(path: Path, name: str, content: BinaryIO, most_bytes: int) -> None:
    content.seek(0, os.SEEK_END)
    if content.tell() > most_bytes:
        raise RequestError(
            f"{name[:100]!r} is larger than {most_bytes / 2**20:g} MiB, more than a file may have; "
            "change that with --set read.max_megabytes=…",
            status=413,
            code="too_large",
            param="file",
        )
    content.seek(0)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """What was renamed or deleted in a folder stays so, also after the power fails."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
