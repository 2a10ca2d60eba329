"""The folders of a library followed: what changes in them is read, split, embedded and indexed anew.

A file is read once nothing has been written to it for a moment. What fails is logged and tried again; the
library goes on with what it has.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

from watchfiles import awatch

from fieldstone import models
from fieldstone.errors import FieldstoneError
from fieldstone.models import Loader
from fieldstone.read.find import excluded, source_of
from fieldstone.recipes import update
from fieldstone.serve.batches import apart
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

SETTLED = 1.0
"""Seconds that a file must have stayed the same before it is read."""

TICK = 0.25
"""Seconds between looks at what has not settled yet."""

LOOK = 5.0
"""Seconds between looks at which folders there are."""

PATIENCE = (2.0, 60.0)
"""Seconds to wait after a failure: at first, and at most."""

_log = logging.getLogger(__name__)


def followed(workspace: Workspace) -> list[Path]:
    """The folders to follow: those that were ever added whole, if they are there.

    The folder of a file that was added by itself is none of them: all that lies beside it would come in.
    """
    library = workspace.library()
    try:
        roots = [Path(root) for root in library.roots().values()]
    finally:
        library.close()
    lines = (line.get("paths") for line in workspace.read_journal() if line.get("step") == "read")
    given = {Path(path) for paths in lines for path in paths or ()} or set(roots)
    folders = {path for path in given if any(map(path.is_relative_to, roots)) and path.is_dir()}
    return sorted(path for path in folders if not folders.intersection(path.parents))


async def follow(
    workspace: Workspace,
    settings: Settings,
    changed: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    borrow: Callable[[], Loader] = lambda: models,
) -> None:
    """Keep the workspace up to date with its folders until `stop` is set; `changed` is awaited after changes.

    It begins with what changed while nobody looked. Folders that go, come back or are added are noticed. The
    `settings` are written to the workspace, as `fieldstone add` does. The encoder is one that the process has
    already, where there is somebody to `borrow` from.
    """
    waiting = _Waiting(workspace, settings, borrow)
    while not stop.is_set():
        folders = await asyncio.to_thread(followed, workspace)
        waiting.look_at(folders)
        look_again = time.monotonic() + LOOK
        async with aclosing(_changes(folders, stop)) as found:
            async for paths in found:
                waiting.note(paths)
                await waiting.bring_in(changed)
                if time.monotonic() < look_again:
                    continue
                look_again = time.monotonic() + LOOK
                if await asyncio.to_thread(followed, workspace) != folders:
                    break


async def _changes(folders: Sequence[Path], stop: asyncio.Event) -> AsyncGenerator[list[Path]]:
    """The paths that changed in the folders, or none, every `TICK` at least, until `stop` is set."""
    polling = None
    while folders and not stop.is_set():
        try:
            watching = awatch(
                *folders,
                watch_filter=None,
                debounce=int(1000 * SETTLED),
                rust_timeout=int(1000 * TICK),
                yield_on_timeout=True,
                stop_event=stop,
                force_polling=polling,
                poll_delay_ms=1000,
            )
            async with aclosing(watching):
                async for changes in watching:
                    yield [Path(path) for _, path in changes]
        except (OSError, RuntimeError) as error:  # the system has no more watches, or a folder went just now
            if not polling:
                _log.warning("watching fails, so the folders are looked through every second: %s", error)
            polling = True
            await asyncio.sleep(1)
            yield list(folders)
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), TICK)
        yield []


class _Waiting:
    """What has changed and is not in the library yet."""

    def __init__(self, workspace: Workspace, settings: Settings, borrow: Callable[[], Loader]) -> None:
        self._workspace, self._settings, self._borrow = workspace, settings, borrow
        self._own = workspace.path.resolve()
        self._folders: Sequence[Path] = ()
        self._since: dict[Path, tuple[tuple[int, ...], float]] = {}  # path -> what it looks like, since when
        self._news = False  # something came in that nobody has been told of
        self._last, self._retry_at, self._delay = "", 0.0, PATIENCE[0]

    def look_at(self, folders: Sequence[Path]) -> None:
        """Follow these folders, and look through them from end to end."""
        self._folders = folders
        self._since = {folder: (_looks(folder), -SETTLED) for folder in folders}

    def note(self, paths: Iterable[Path]) -> None:
        """Note that these have changed, but for what is never read."""
        for path in paths:
            folder = self._folder_of(path)
            if folder is None or path.is_relative_to(self._own):
                continue
            source = source_of(path, folder)
            hidden = any(part.startswith(".") for part in source.split("/")) and path != folder
            if not hidden and excluded(source, self._settings.read.exclude) is None:
                self._since[path] = _looks(path), time.monotonic()

    async def bring_in(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Bring into the library what has settled; what fails stays, to be tried again after a while."""
        settled = self._settled()
        if not (settled or self._news) or time.monotonic() < self._retry_at:
            return
        try:
            if settled:
                news = await apart(partial(self._update, settled))
                self._news = self._news or news
            if self._news:
                await changed()
        except (FieldstoneError, OSError, sqlite3.Error) as error:
            self._news = True  # some of it may have come in
            _log.log(logging.DEBUG if str(error) == self._last else logging.WARNING, "not yet: %s", error)
            self._last, self._retry_at = str(error), time.monotonic() + self._delay
            self._delay = min(2 * self._delay, PATIENCE[1])
            return
        self._news = False
        self._last, self._retry_at, self._delay = "", 0.0, PATIENCE[0]
        for path in settled:
            del self._since[path]

    def _folder_of(self, path: Path) -> Path | None:
        return next((folder for folder in self._folders if path.is_relative_to(folder)), None)

    def _settled(self) -> list[Path]:
        """The paths that have stayed the same for long enough."""
        settled, now = [], time.monotonic()
        for path, (looked, since) in self._since.items():
            looks = _looks(path)
            if looks != looked:
                self._since[path] = looks, now
            elif now - since >= SETTLED:
                settled.append(path)
        return settled

    def _update(self, paths: Collection[Path]) -> bool:
        """Bring these into the library; returns whether it changed."""
        by_folder = defaultdict(list)
        for path in paths:
            if folder := self._folder_of(path):
                by_folder[folder].append(path)
        news = False
        for folder, its in by_folder.items():
            if folder in its and self._emptied(folder):
                _log.warning(
                    "%s is empty, and perhaps not mounted: its documents stay in the library", folder
                )
                continue
            built = update(self._workspace, self._settings, [folder], only=its, loader=self._borrow())
            added = built.added
            news |= bool(added.read or added.removed or added.unread)
            news |= bool(built.made["split"]["passages"] or built.made["index"]["embedded"])
            if added.read or added.removed:
                _log.info("%s: %d files read, %d removed", folder, len(added.read), len(added.removed))
            for source, reason in added.unread:
                _log.warning("%s: %s", source, reason)
        return news

    def _emptied(self, folder: Path) -> bool:
        """Nothing is left in a folder that the library has files of."""
        if any(folder.iterdir()):
            return False
        library = self._workspace.library()
        try:
            return bool(library.files())
        finally:
            library.close()


def _looks(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to; nothing for one that is gone."""
    try:
        its = path.stat()
    except OSError:
        return ()
    return its.st_size, its.st_mtime_ns, its.st_ino
